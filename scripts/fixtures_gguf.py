"""Writes tests/fixtures/families/*.gguf: the weights of the directories of that name, as llama.cpp's converter
would write them (F16 matrices, F32 vectors).

llama.cpp itself then reads every file and must give the logits in the directory's expected.json, for the sequences
that end within the sliding windows: it has none for some of these families.

Needs numpy, safetensors, gguf, llama-cpp-python.

    python scripts/fixtures_gguf.py
"""

import json
import pathlib

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

FAMILIES = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/families"
ARCHITECTURES = {
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
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
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    add_vocabulary(writer, config, tokenizer)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for name, tensor in tensors.items():
        dtype = np.float16 if tensor.ndim == 2 else np.float32
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
