"""Writes a checkpoint of a published model's shape with random weights, to measure loading, quantizing and
memory at sizes for which no download is at hand.

    python scripts/bench/random_checkpoint.py llama2-13b OUT [--tokenizer DIR]
    python scripts/bench/random_checkpoint.py llama2-7b OUT --dense

GPTQ, symmetric, 4 bits, groups of 128, f16 scales (about 7 GB for 13B); with --dense f16 throughout (13.5 GB
for 7B). In shards of 5 GB. Streams: memory stays at one tensor. The tokenizer's files are copied from DIR (any
Llama-like one: only its ids are used).
"""

import argparse
import json
import shutil
import struct
from pathlib import Path

import numpy as np

#        layers, hidden, intermediate, heads, key/value heads, vocabulary
SHAPES = {
    "tiny": (2, 256, 704, 4, 2, 1024),
    "llama2-7b": (32, 4096, 11008, 32, 32, 32000),
    "llama2-13b": (40, 5120, 13824, 40, 40, 32000),
    "qwen2.5-32b": (64, 5120, 27648, 40, 8, 152064),
}
GROUP = 128
SHARD_BYTES = 5_000_000_000


def tensors(shape, dense):
    """Name, dtype, shape and kind of every tensor, in the order of the files."""
    layers, hidden, inner, heads, kv_heads, vocab = shape
    kv = hidden // heads * kv_heads
    yield "model.embed_tokens.weight", "F16", (vocab, hidden), "table"
    yield "lm_head.weight", "F16", (vocab, hidden), "table"
    yield "model.norm.weight", "F16", (hidden,), "one"
    for layer in range(layers):
        at = f"model.layers.{layer}"
        linears = [
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ]
        for name, out, into in linears:
            if dense:
                yield f"{at}.{name}.weight", "F16", (out, into), "table"
                continue
            groups = -(-into // GROUP)
            yield f"{at}.{name}.qweight", "I32", (into // 8, out), "codes"
            yield f"{at}.{name}.qzeros", "I32", (groups, out // 8), "zeros"
            yield f"{at}.{name}.scales", "F16", (groups, out), "scales"
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}.{name}.weight", "F16", (hidden,), "one"


def values(kind, shape, rng):
    if kind == "codes":
        return rng.integers(0, 2**32, shape, dtype=np.uint32)
    if kind == "zeros":
        return np.full(shape, 0x77777777, np.uint32)
    if kind == "scales":
        return np.full(shape, 0.002, np.float16)
    if kind == "one":
        return np.ones(shape, np.float16)
    return (rng.random(shape, dtype=np.float32) * 0.1 - 0.05).astype(np.float16)


def size(tensor):
    _, dtype, shape, _ = tensor
    return int(np.prod(shape)) * {"F16": 2, "I32": 4}[dtype]


def shards(shape, dense):
    """The tensors of each file."""
    files, room = [[]], SHARD_BYTES
    for tensor in tensors(shape, dense):
        room -= size(tensor)
        if room < 0 and files[-1]:
            files.append([])
            room = SHARD_BYTES - size(tensor)
        files[-1].append(tensor)
    return files


def write(path, of_file, rng):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for tensor in of_file:
        name, dtype, shape, _ = tensor
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size(tensor)]}
        end += size(tensor)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, shape, kind in of_file:
            file.write(values(kind, shape, rng).tobytes())
    return end


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--dense", action="store_true", help="f16 weights instead of GPTQ's codes")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    layers, hidden, inner, heads, kv_heads, vocab = shape
    args.out.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
    if not args.dense:
        config["quantization_config"] = {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": GROUP,
            "sym": True,
            "desc_act": False,
            "checkpoint_format": "gptq",
        }
    (args.out / "config.json").write_text(json.dumps(config, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if args.tokenizer and (args.tokenizer / name).exists():
            shutil.copy(args.tokenizer / name, args.out / name)

    files, places, total = shards(shape, args.dense), {}, 0
    rng = np.random.Generator(np.random.SFC64(0))
    for index, of_file in enumerate(files):
        name = f"model-{index + 1:05}-of-{len(files):05}.safetensors" if len(files) > 1 else "model.safetensors"
        total += write(args.out / name, of_file, rng)
        places |= {tensor[0]: name for tensor in of_file}
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (args.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    print(f"{args.out}: {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
