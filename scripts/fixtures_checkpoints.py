"""Writes tests/fixtures/checkpoints/: one tiny random Llama in every file format that can be read.

    hf-f32/           one safetensors file
    hf-bf16-sharded/  two shards and an index
    hf-f16/           one file, keys of newer transformers
    gptq-4bit-v1/     GPTQ, asymmetric, group 32 (checkpoint_format gptq: zero - 1 in the file)
    gptq-3bit-v2/     GPTQ, asymmetric, group 24 with a short last group (gptq_v2)
    {f16,q8_0,q4_0,q4_1}.gguf, and <name>.expected.safetensors: what the gguf package expands them
                      to, with llama.cpp's q/k row order undone as transformers undoes it

GPTQ tensors are packed here code by code as one bit stream per column, which is what AutoGPTQ's
loops write for 2, 3, 4 and 8 bits; nothing is shared with qzo.
Needs numpy, safetensors, gguf, torch (for bf16).

    python scripts/fixtures_checkpoints.py
"""

import json
import pathlib
import shutil

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parents[1] / "tests/fixtures/checkpoints"
HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, VOCAB = 32, 64, 2, 4, 2, 40
HEAD_DIM = HIDDEN // HEADS
LINEARS = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
GGUF_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "hidden_act": "silu",
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}


def model():
    rng = np.random.default_rng(7)

    def normal(*shape):
        return (rng.standard_normal(shape) * 0.08).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": normal(VOCAB, HIDDEN),
        "model.norm.weight": 1 + normal(HIDDEN),
        "lm_head.weight": normal(VOCAB, HIDDEN),
    }
    for layer in range(LAYERS):
        for name, shape in LINEARS.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = normal(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = 1 + normal(HIDDEN)
    # Blocks whose GGUF scale is 0: constant (Q4_1), and all zero (every type).
    tensors["model.layers.0.mlp.down_proj.weight"][3, :32] = 0.25
    tensors["model.layers.1.self_attn.q_proj.weight"][5, :32] = 0.0
    return tensors


def fresh(name):
    directory = OUT / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def save(tensors, path):
    save_file({name: torch.as_tensor(t).contiguous() for name, t in tensors.items()}, path, {"format": "pt"})


def write_hugging_face(tensors):
    directory = fresh("hf-f32")
    write_json(directory / "config.json", CONFIG)
    write_json(directory / "generation_config.json", {"eos_token_id": [2, 3]})
    write_json(directory / "tokenizer_config.json", {"note": "copied byte for byte"})
    save(tensors, directory / "model.safetensors")

    directory = fresh("hf-bf16-sharded")
    write_json(directory / "config.json", CONFIG | {"torch_dtype": "bfloat16"})
    halves = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
    for name, tensor in tensors.items():
        shard = list(halves)[".1." in name or name == "lm_head.weight"]
        halves[shard][name] = torch.as_tensor(tensor).to(torch.bfloat16)
    for shard, part in halves.items():
        save(part, directory / shard)
    weight_map = {name: shard for shard, part in halves.items() for name in part}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    write_json(directory / "model.safetensors.index.json", index)

    directory = fresh("hf-f16")
    new = {k: v for k, v in CONFIG.items() if k not in ("rope_theta", "rope_scaling", "torch_dtype")}
    new |= {"dtype": "float16", "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    write_json(directory / "config.json", new)
    save({name: t.astype(np.float16) for name, t in tensors.items()}, directory / "model.safetensors")


def pack(columns, bits):
    """[n, m] codes -> [ceil(n * bits / 32), m] words, one code after the other along n."""
    words = np.zeros((-(-columns.shape[0] * bits // 32), columns.shape[1]), dtype=np.uint64)
    for i, row in enumerate(columns.astype(np.uint64)):
        word, shift = divmod(i * bits, 32)
        both = row << np.uint64(shift)
        words[word] |= both & np.uint64(0xFFFFFFFF)
        if shift + bits > 32:
            words[word + 1] |= both >> np.uint64(32)
    return words.astype(np.uint32).view(np.int32)


def write_gptq(tensors, name, bits, group_size, v1):
    directory = fresh(name)
    stored, expected = {}, {}
    for key, weight in tensors.items():
        if weight.ndim == 1 or ".layers." not in key:
            stored[key] = weight.astype(np.float16)
            expected[key] = stored[key].astype(np.float32)
            continue
        module = key.removesuffix(".weight")
        out_features, in_features = weight.shape
        g_idx = np.arange(in_features) // group_size
        groups = g_idx[-1] + 1
        scales = np.zeros((groups, out_features), np.float16)
        zeros = np.zeros((groups, out_features), np.int64)
        for g in range(groups):
            part = weight[:, g_idx == g]
            low, high = np.minimum(part.min(1), -1e-3), np.maximum(part.max(1), 1e-3)
            scales[g] = (high - low) / (2**bits - 1)
            zeros[g] = np.clip(np.round(-low / scales[g].astype(np.float32)), 1 if v1 else 0, 2**bits - 1)
        if not v1:
            zeros[0, 0] = 0
        s, z = scales.astype(np.float32)[g_idx].T, zeros[g_idx].T
        codes = np.clip(np.round(weight / s) + z, 0, 2**bits - 1).astype(np.int64)
        expected[key] = (s * (codes - z)).astype(np.float32)
        stored[f"{module}.qweight"] = pack(codes.T, bits)
        stored[f"{module}.qzeros"] = np.ascontiguousarray(pack((zeros - v1).T, bits).T)
        stored[f"{module}.scales"] = scales
        stored[f"{module}.g_idx"] = g_idx.astype(np.int32)
    quantization = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group_size,
        "desc_act": False,
        "sym": False,
        "checkpoint_format": "gptq" if v1 else "gptq_v2",
    }
    write_json(directory / "config.json", CONFIG | {"torch_dtype": "float16", "quantization_config": quantization})
    save(stored, directory / "model.safetensors")
    save(expected, OUT / f"{name}.expected.safetensors")


def permute(weight, heads):
    """LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def undo_permute(weight, heads):
    """LlamaTensorProcessor._reverse_permute_weights of transformers."""
    dim = weight.shape[0] // heads // 2
    return weight.reshape(heads, dim, 2, *weight.shape[1:]).swapaxes(2, 1).reshape(weight.shape)


def heads_of(name):
    return HEADS if ".q_proj." in name else KV_HEADS if ".k_proj." in name else None


def gguf_name(name):
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in fixed:
        return fixed[name]
    layer, part = name.removeprefix("model.layers.").split(".", 1)
    part, kind = part.rsplit(".", 1)
    return f"blk.{layer}.{GGUF_PARTS[part]}.{kind}"


def write_gguf(tensors, kind):
    kind_name = kind.name.lower()
    writer = gguf.GGUFWriter(OUT / f"{kind_name}.gguf", "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"token {i}" for i in range(VOCAB - 1)] + ["<|im_end|>"])
    writer.add_token_scores([-float(i) for i in range(VOCAB)])
    writer.add_token_types([1] * VOCAB)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{{ messages }}")
    expected = {}
    for name, weight in tensors.items():
        heads = heads_of(name)
        in_file = permute(weight, heads) if heads else weight
        of_tensor = kind
        if weight.ndim == 1:
            of_tensor = gguf.GGMLQuantizationType.F32
        elif name == "model.embed_tokens.weight" and kind.name == "Q4_1":
            of_tensor = gguf.GGMLQuantizationType.Q8_0  # a mix, as llama-quantize makes
        elif name == "lm_head.weight" and kind.name == "Q4_1":
            of_tensor = gguf.GGMLQuantizationType.BF16
        data = gguf.quants.quantize(in_file, of_tensor)
        writer.add_tensor(gguf_name(name), data, raw_dtype=of_tensor)
        values = gguf.quants.dequantize(data, of_tensor).reshape(weight.shape).astype(np.float32)
        expected[name] = undo_permute(values, heads) if heads else values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save(expected, OUT / f"{kind_name}.expected.safetensors")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    tensors = model()
    write_hugging_face(tensors)
    write_gptq(tensors, "gptq-4bit-v1", bits=4, group_size=32, v1=True)
    write_gptq(tensors, "gptq-3bit-v2", bits=3, group_size=24, v1=False)
    for kind in ("F16", "Q8_0", "Q4_0", "Q4_1"):
        write_gguf(tensors, gguf.GGMLQuantizationType[kind])
    largest = max((p for p in OUT.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    assert largest.stat().st_size < 200_000, largest


if __name__ == "__main__":
    main()
