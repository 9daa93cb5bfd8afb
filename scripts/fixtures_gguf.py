"""Writes tests/fixtures/families/*.gguf: the weights of the directories of that name, as llama.cpp's converter
would write them (F16 matrices, F32 vectors).

llama.cpp itself then reads every file and must give the logits in the directory's expected.json, for the sequences
that end within the sliding windows: it has none for some of these families.

Needs numpy, safetensors, gguf, llama-cpp-python.

    python scripts/fixtures_gguf.py
"""

import json
import math
import pathlib

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

FAMILIES = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/families"
ARCHITECTURES = {
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
}
# f16 products in llama.cpp, of logits of about 5.
TOLERANCE = 0.05


def add_vocabulary(writer, config, tokenizer):
    vocab = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocab)
    writer.add_token_types([3 if token in special else 1 for token in vocab])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def write(path, architecture, config, tokenizer, tensors):
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    theta = 1e6 if architecture == gguf.MODEL_ARCH.GEMMA3 else 1e4
    writer.add_rope_freq_base(config.get("rope_theta", theta))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    if "head_dim" in config:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    for key, add in (("sliding_window", writer.add_sliding_window),
                     ("attn_logit_softcapping", writer.add_attn_logit_softcapping),
                     ("final_logit_softcapping", writer.add_final_logit_softcapping)):
        if config.get(key) is not None:
            add(config[key])
    if architecture == gguf.MODEL_ARCH.PHI3:
        rotary = int(head_dim * config["partial_rotary_factor"])
        original, scaling = config["original_max_position_embeddings"], config["rope_scaling"]
        writer.add_rope_dimension_count(rotary)
        writer.add_rope_scaling_orig_ctx_len(original)
        factor = math.log(config["max_position_embeddings"] / original) / math.log(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + factor))
        for kind in ("long", "short"):
            writer.add_tensor(f"rope_factors_{kind}.weight", np.array(scaling[f"{kind}_factor"], np.float32))
    elif config.get("rope_scaling"):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config["rope_scaling"]["factor"])
    add_vocabulary(writer, config, tokenizer)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for name, tensor in tensors.items():
        tensor = as_converted(architecture, config, head_dim, name, tensor.astype(np.float32))
        dtype = np.float16 if tensor.ndim == 2 else np.float32
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def as_converted(architecture, config, head_dim, name, tensor):
    """llama.cpp adds nothing to Gemma's norms, and takes head_dim for query_pre_attn_scalar: here, exactly so."""
    if "GEMMA" not in architecture.name:
        return tensor
    tensor = tensor + 1 if "norm" in name else tensor
    scaled = "q_norm" if architecture == gguf.MODEL_ARCH.GEMMA3 else "q_proj"
    if scaled in name and "query_pre_attn_scalar" in config:
        tensor = tensor * math.sqrt(head_dim / config["query_pre_attn_scalar"])
    return tensor


def difference(path, cases):
    model = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False)
    worst = 0.0
    for case in cases:
        model.reset()
        model.eval(case["input_ids"])
        rows = np.array(model.scores[case["first_row"]:len(case["input_ids"])])
        worst = max(worst, np.abs(rows - np.array(case["logits"])).max())
    return worst


def main():
    for name, architecture in ARCHITECTURES.items():
        directory = FAMILIES / name
        config, tokenizer, expected = (json.loads((directory / f"{part}.json").read_text())
                                       for part in ("config", "tokenizer", "expected"))
        path = FAMILIES / f"{name}.gguf"
        write(path, architecture, config, tokenizer, load_file(directory / "model.safetensors"))
        worst = difference(path, [case for case in expected if len(case["input_ids"]) <= 8])
        print(f"{path.name}: {path.stat().st_size} B, llama.cpp's logits differ by up to {worst:.4f}")
        assert worst < TOLERANCE


if __name__ == "__main__":
    main()
