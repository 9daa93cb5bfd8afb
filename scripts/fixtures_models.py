"""Makes the tiny random checkpoints under tests/fixtures/llama and tests/fixtures/families, with reference numbers.

Each directory is a Hugging Face checkpoint (config.json, safetensors, tokenizer.json; those named -pickled
have pytorch_model.bin, vocab.json and merges.txt instead) plus
expected.json, a list of cases computed by transformers in f32 with eager attention from the stored
(rounded) weights:

    name        what the case is
    input_ids   the sequence; no padding in it
    first_row   position of the first row of `logits`
    logits      [rows, vocab], 7 significant digits
    token_nll   [tokens - 1], token_nll[i] = -log p(token i+1 | tokens <= i)
    padding     "left" or "right" where transformers ran the sequence inside a padded batch (then also
                `padded_ids` and `attention_mask`); only real positions are stored, and they were
                checked to equal the unpadded run's within 1e-5

config.json is written by hand, because transformers writes only its own newest spelling: `old` keys are
rope_theta/rope_scaling/torch_dtype, `new` ones rope_parameters/dtype as transformers 5 writes them.

Needs: numpy 2.4.6, safetensors 0.8.0, tokenizers 0.22.2, torch 2.9.1, transformers 4.57.6.

    python scripts/fixtures_models.py tests/fixtures
"""

import argparse
import json
import shutil
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB = 128
BOS, EOS, PAD = 1, 2, 3
LENGTHS = [1, 7, 40]
# Longer sequences store the logits of their last rows only; token_nll covers all of them.
FULL_ROWS, LAST_ROWS = 7, 3
PADDING_TOLERANCE = 1e-5

# Wavelengths are 6.3, 18, 52 ... tokens here: one is kept, one blended, the others stretched.
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0,
          "original_max_position_embeddings": 16}
SMALL = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1)
WIDE = dict(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2)

# name -> (settings of LlamaConfig, stored dtype, spelling of config.json, shards)
LLAMA = {
    "llama/base": (WIDE, "float16", "old", 1),
    "llama/tied-bf16": (dict(WIDE, tie_word_embeddings=True), "bfloat16", "new", 1),
    "llama/rope-llama3-old-keys": (dict(SMALL, rope_theta=5000.0, rope_scaling=LLAMA3), "float32", "old", 1),
    "llama/rope-llama3-new-keys": (dict(SMALL, rope_theta=5000.0, rope_scaling=LLAMA3), "float32", "new", 1),
    "llama/rope-linear": (dict(SMALL, rope_scaling={"type": "linear", "factor": 4.0}), "float32", "old", 1),
    "llama/head-dim-attention-bias": (
        dict(hidden_size=48, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
             rope_theta=500000.0, attention_bias=True), "float32", "old", 1),
    "llama/sharded-f16": (dict(WIDE, intermediate_size=88), "float16", "old", 3),
    "llama/mlp-bias": (dict(SMALL, mlp_bias=True, num_key_value_heads=2), "float32", "new", 1),
}
# Variants that must hold the very same weights, so that only the spelling differs.
WEIGHTS_OF = {"rope-llama3-new-keys": "rope-llama3-old-keys"}

# What transformers takes an absent key for is to be tested, too.
ABSENT = object()
GEMMA = dict(SMALL, head_dim=16, tie_word_embeddings=ABSENT)
VISION = dict({key: ABSENT for key in ["max_position_embeddings", "num_hidden_layers", "rms_norm_eps", "vocab_size",
                                       "tie_word_embeddings"]},
              mm_tokens_per_image=1, image_token_index=VOCAB - 1, boi_token_index=VOCAB - 2, eoi_token_index=VOCAB - 3,
              vision_config=dict(model_type="siglip_vision_model", hidden_size=8, intermediate_size=8,
                                 num_hidden_layers=1, num_attention_heads=1, image_size=14, patch_size=14,
                                 vision_use_head=False))
OPT = dict(hidden_size=32, ffn_dim=64, num_attention_heads=2, rms_norm_eps=ABSENT, tie_word_embeddings=ABSENT)

# Windows are shorter than the longest sequence, soft caps and scalars small enough to matter.
# name -> (architecture, model_type, settings)
FAMILIES = {
    "families/mistral": ("MistralForCausalLM", "mistral",
                         dict(SMALL, sliding_window=8, rope_theta=10000.0, hidden_act="silu")),
    "families/qwen2": ("Qwen2ForCausalLM", "qwen2",
                       dict(SMALL, use_sliding_window=True, sliding_window=8, max_window_layers=1,
                            rope_theta=1000000.0, hidden_act="silu")),
    "families/qwen3": ("Qwen3ForCausalLM", "qwen3",
                       dict(SMALL, head_dim=32, attention_bias=False, use_sliding_window=False, sliding_window=None,
                            max_window_layers=2, rope_theta=1000000.0, hidden_act="silu",
                            tie_word_embeddings=True)),
    "families/phi3": ("Phi3ForCausalLM", "phi3",
                      dict(SMALL, sliding_window=8, rope_theta=10000.0, hidden_act="silu", partial_rotary_factor=0.75,
                           max_position_embeddings=512, original_max_position_embeddings=256,
                           rope_scaling={"type": "longrope", "short_factor": [1.0, 1.1, 1.25, 1.5, 2.0, 2.5],
                                         "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]})),
    "families/gemma": ("GemmaForCausalLM", "gemma", GEMMA),
    "families/gemma2": ("Gemma2ForCausalLM", "gemma2",
                        dict(GEMMA, sliding_window=8, query_pre_attn_scalar=4, attn_logit_softcapping=5.0,
                             final_logit_softcapping=4.0, hidden_activation="gelu_pytorch_tanh")),
    "families/gemma3": ("Gemma3ForCausalLM", "gemma3_text",
                        dict(GEMMA, intermediate_size=32, num_hidden_layers=6, sliding_window=8,
                             query_pre_attn_scalar=64, rope_scaling={"rope_type": "linear", "factor": 8.0},
                             rope_local_base_freq=10000.0, hidden_activation="gelu_pytorch_tanh")),
    # Of which the text part is read. Its files leave out what Gemma3TextConfig has for itself.
    "families/gemma3-vision": ("Gemma3ForConditionalGeneration", "gemma3", dict(
        VISION, text_config=dict(SMALL, head_dim=16, model_type="gemma3_text", vocab_size=VOCAB, num_hidden_layers=6,
                                 intermediate_size=32, sliding_window=8, query_pre_attn_scalar=64, rms_norm_eps=1e-5,
                                 max_position_embeddings=128))),
    "families/opt": ("OPTForCausalLM", "opt", OPT),
    "families/opt-pickled": ("OPTForCausalLM", "opt", OPT),
    "families/opt-pickled-shards": ("OPTForCausalLM", "opt", OPT),
    "families/opt-post-norm": ("OPTForCausalLM", "opt",
                               dict(OPT, do_layer_norm_before=False, word_embed_proj_dim=16)),
}


def random_model(name: str, config: dict, dtype: torch.dtype) -> PreTrainedModel:
    """Weights large enough that attention is far from uniform; norms and biases away from 1 and 0."""
    config = AutoConfig.for_model(**json.loads(json.dumps(config)))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    name = name.split("/")[-1]
    rng = np.random.Generator(np.random.Philox(zlib.crc32(WEIGHTS_OF.get(name, name).encode())))
    for key, weight in sorted(model.named_parameters()):
        noise = torch.from_numpy(rng.standard_normal(tuple(weight.shape)).astype(np.float32))
        if key.endswith("bias"):
            noise = 0.3 * noise
        elif "norm" in key:
            # Gemma stores what is to be added to 1.
            noise = (0 if config.model_type.startswith("gemma") else 1) + 0.2 * noise
        elif weight.ndim == 1:
            pass
        elif "embed_tokens" not in key or config.tie_word_embeddings:
            noise = noise * (1.5 / weight.shape[1] ** 0.5)
        weight.data = noise.to(dtype).float()
    return model


def llama_config(settings: dict, dtype: str, spelling: str) -> tuple[dict, dict]:
    """config.json, and the same for AutoConfig."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "mlp_bias": False,
        "model_type": "llama",
        "num_hidden_layers": 2,
        "pad_token_id": PAD,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "vocab_size": VOCAB,
        **settings,
    }
    known = dict(config)
    if spelling == "old":
        config["torch_dtype"] = dtype
    else:
        config["dtype"] = dtype
        rope = config.pop("rope_scaling") or {"rope_type": "default"}
        config["rope_parameters"] = {**rope, "rope_theta": config.pop("rope_theta")}
    return dict(sorted(config.items())), known


def family_config(architecture: str, model_type: str, settings: dict, dtype: str) -> dict:
    """Without keys that repeat what transformers takes them for when they are absent."""
    config = {
        "architectures": [architecture],
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "max_position_embeddings": 128,
        "model_type": model_type,
        "num_hidden_layers": 2,
        "pad_token_id": PAD,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "vocab_size": VOCAB,
        **settings,
    }
    return {key: value for key, value in sorted(config.items()) if value is not ABSENT}


def byte_level_bpe() -> Tokenizer:
    """VOCAB entries: four special tokens, printable ASCII with newline, and a few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [chr(c) for c in range(0x21, 0x7F)] + ["Ġ", "Ċ"]
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
                                  initial_alphabet=alphabet, show_progress=False)
    text = "It was the best of times, it was the worst of times, it was the age of wisdom, the age of foolishness"
    tokenizer.train_from_iterator([text], trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    return tokenizer


def save_weights(model: PreTrainedModel, dtype: torch.dtype, shards: int, out: Path) -> None:
    tensors = {key: value.to(dtype).contiguous() for key, value in sorted(model.state_dict().items())}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    # As the hub has models that see.
    tensors = {key.replace("model.language_model.", "language_model.model.").replace("model.vision_", "vision_")
               .replace("model.multi_modal", "multi_modal"): value for key, value in tensors.items()}
    if shards == 1:
        save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})
        return
    weight_map = {}
    keys = list(tensors)
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = keys[shard * len(keys) // shards : (shard + 1) * len(keys) // shards]
        save_file({key: tensors[key] for key in part}, str(out / name), metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, name))
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def save_pickled(model: PreTrainedModel, dtype: torch.dtype, shards: int, out: Path) -> None:
    """As the hub has OPT: PyTorch's files, either whole, with the head stored as the embeddings that it is, or the
    model without its head in shards with an index, the beginning of all names left out."""
    tensors = {key: value.to(dtype) for key, value in sorted(model.state_dict().items())}
    tensors["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"]
    if shards == 1:
        torch.save(tensors, out / "pytorch_model.bin")
        return
    del tensors["lm_head.weight"]
    tensors = {key.removeprefix("model."): value for key, value in tensors.items()}
    keys = list(tensors)
    weight_map = {}
    for shard in range(shards):
        name = f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin"
        part = keys[shard * len(keys) // shards : (shard + 1) * len(keys) // shards]
        # A parameter and a tensor inside a larger storage are written otherwise than a tensor of its own.
        values = [torch.nn.Parameter(tensors[part[0]]), torch.cat([tensors[part[1]]] * 2)[len(tensors[part[1]]) :]]
        values += [tensors[key] for key in part[2:]]
        torch.save(OrderedDict(zip(part, values)), out / name)
        weight_map.update(dict.fromkeys(part, name))
    index = {"metadata": {}, "weight_map": weight_map}
    (out / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")


def save_merges(tokenizer: Tokenizer, out: Path) -> None:
    """As the hub has OPT's tokenizer."""
    model = json.loads(tokenizer.to_str())["model"]
    (out / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n")
    pairs = [" ".join(pair) for pair in model["merges"]]
    (out / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
    (out / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>",
         "pad_token": "<pad>", "add_bos_token": True, "add_prefix_space": False}, indent=2) + "\n")


def case(name: str, ids: list[int], logits: torch.Tensor, **extra) -> dict:
    """logits: [tokens, vocab], f32."""
    logp = logits.double().log_softmax(-1)
    nll = [-logp[i, token].item() for i, token in enumerate(ids[1:])]
    first = 0 if len(ids) <= FULL_ROWS else len(ids) - LAST_ROWS
    return {"name": name, **extra, "input_ids": ids, "first_row": first,
            "logits": [[seven(x) for x in row] for row in logits[first:].tolist()],
            "token_nll": [seven(x) for x in nll]}


def seven(x: float) -> float:
    return float(f"{x:.7g}")


@torch.no_grad()
def cases(model: PreTrainedModel) -> list[dict]:
    rng = np.random.Generator(np.random.Philox(7))
    sequences = [[BOS] + rng.integers(4, VOCAB, n - 1).tolist() for n in LENGTHS]
    alone = [model(torch.tensor([ids])).logits[0] for ids in sequences]
    found = [case(f"{len(ids)} tokens", ids, logits) for ids, logits in zip(sequences, alone)]
    longest = max(LENGTHS)
    for side in ["left", "right"]:
        pad = [[PAD] * (longest - len(ids)) for ids in sequences]
        mask = [[0] * len(p) + [1] * len(ids) for p, ids in zip(pad, sequences)]
        padded = [p + ids for p, ids in zip(pad, sequences)]
        if side == "right":
            mask = [[1] * len(ids) + [0] * len(p) for p, ids in zip(pad, sequences)]
            padded = [ids + p for p, ids in zip(pad, sequences)]
        batch = model(torch.tensor(padded), attention_mask=torch.tensor(mask)).logits
        for i, ids in enumerate(sequences):
            logits = batch[i][torch.tensor(mask[i], dtype=torch.bool)]
            difference = (logits - alone[i]).abs().max().item()
            assert difference < PADDING_TOLERANCE, f"{side} padding changes the logits by {difference}"
            if len(ids) < longest:
                found.append(case(f"{len(ids)} tokens, {side} padded", ids, logits, padding=side,
                                  padded_ids=padded[i], attention_mask=mask[i]))
    return found


def write_cases(found: list[dict], path: Path) -> None:
    """One line per field, so that a diff of two versions can be read."""
    blocks = []
    for entry in found:
        fields = [f'    "{key}": {json.dumps(value, separators=(",", ":"))}' for key, value in entry.items()]
        blocks.append("  {\n" + ",\n".join(fields) + "\n  }")
    path.write_text("[\n" + ",\n".join(blocks) + "\n]\n")


def write(name: str, out: Path, config: dict, known: dict, dtype: str, shards: int, tokenizer: Tokenizer) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model = random_model(name, known, getattr(torch, dtype))
    pickled = "pickled" in name
    if pickled:
        save_pickled(model, getattr(torch, dtype), shards, out)
    else:
        save_weights(model, getattr(torch, dtype), shards, out)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if pickled:
        save_merges(tokenizer, out)
    else:
        tokenizer.save(str(out / "tokenizer.json"))
        (out / "tokenizer_config.json").write_text(json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
             "pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": 128}, indent=2) + "\n")
    found = cases(model)
    write_cases(found, out / "expected.json")
    if "torch_dtype" in config:
        # The directory by itself means the same to transformers.
        read = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
        ids = torch.tensor([found[2]["input_ids"]])
        with torch.no_grad():
            assert torch.equal(read(ids).logits, model(ids).logits), name
    bytes_of = {f.name: f.stat().st_size for f in out.iterdir()}
    print(f"{name}: weights {sum(v for k, v in bytes_of.items() if k.endswith(('.safetensors', '.bin')))} B, "
          f"expected.json {bytes_of['expected.json']} B, all {sum(bytes_of.values())} B")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = byte_level_bpe()
    for name, (settings, dtype, spelling, shards) in LLAMA.items():
        config, known = llama_config(settings, dtype, spelling)
        write(name, args.out / name, config, known, dtype, shards, tokenizer)
    for name, (architecture, model_type, settings) in FAMILIES.items():
        config = family_config(architecture, model_type, settings, "float16")
        write(name, args.out / name, config, config, "float16", 2 if name.endswith("shards") else 1, tokenizer)


if __name__ == "__main__":
    main()
