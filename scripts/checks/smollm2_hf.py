"""Turns the Q4_1 GGUF of SmolLM2-135M-Instruct into a float16 Hugging Face directory.

Makes OUT/{config,generation_config,tokenizer,tokenizer_config,special_tokens_map}.json and
OUT/model.safetensors (tied embeddings, so no lm_head). Weights are the GGUF's dequantized blocks
rounded to float16; llama.cpp's row order of q_proj and k_proj is undone. The tokenizer is the one the
model was trained with: digits one by one, then GPT-2's byte-level pre-tokenizer.

Needs: gguf 0.19.0, numpy 2.4.6, safetensors 0.8.0, tokenizers 0.22.2; for --check also torch 2.9.1,
transformers 4.57.6, accelerate 1.15.0.

    python scripts/checks/smollm2_hf.py models/SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2-f16 --check
"""

import argparse
import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, quants
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

HF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3  # tokenizer.ggml.token_type


def metadata(reader: GGUFReader) -> dict:
    return {key: field.contents() for key, field in reader.fields.items()}


def hf_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    *prefix, part, kind = name.split(".")
    layer = f"model.layers.{prefix[1]}." if prefix else ""
    return f"{layer}{HF_NAMES[part]}.{kind}"


def hf_rows(name: str, rows: np.ndarray, meta: dict) -> np.ndarray:
    """Undoes llama.cpp's permutation of the output rows of q and k: in its RoPE order the two rotated
    halves of a head are interleaved. Works on values, packed blocks or scales: only axis 0 moves."""
    if not name.endswith(("attn_q.weight", "attn_k.weight")):
        return rows
    key = "llama.attention.head_count" + ("_kv" if ".attn_k." in name else "")
    heads = meta[key]
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def q4_1_blocks(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[out, in/32 * 20] bytes -> scales d and minima m, float32 [out, in/32], codes, uint8 [out, in/32, 32];
    w = d*q + m. A block is f16 d, f16 m, then 16 bytes: low nibbles are elements 0-15, high ones 16-31."""
    blocks = data.reshape(data.shape[0], -1, 20)
    d_m = np.ascontiguousarray(blocks[..., :4]).view(np.float16).astype(np.float32)
    nibbles = blocks[..., 4:]
    return d_m[..., 0], d_m[..., 1], np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)


def float32(tensor) -> np.ndarray:
    """A GGUF tensor's values, float32 [out, in], in the file's row order."""
    if tensor.tensor_type == GGMLQuantizationType.F32:
        return tensor.data.astype(np.float32)
    if tensor.tensor_type == GGMLQuantizationType.Q8_0:  # a block is f16 d, then 32 signed bytes; w = d*q
        blocks = tensor.data.reshape(tensor.data.shape[0], -1, 34)
        d = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)
        return (d * np.ascontiguousarray(blocks[..., 2:]).view(np.int8)).reshape(blocks.shape[0], -1)
    if tensor.tensor_type == GGMLQuantizationType.Q4_1:
        d, m, codes = q4_1_blocks(tensor.data)
        return (d[..., None] * codes + m[..., None]).reshape(d.shape[0], -1)
    return quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


def dequantized(reader: GGUFReader, meta: dict) -> dict:
    """Hugging Face name -> float32 array [out, in] (or [n]), rows in Hugging Face order."""
    return {
        hf_name(t.name): hf_rows(t.name, float32(t), meta)
        for t in reader.tensors
    }


def config(meta: dict) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "hidden_act": "silu",
        "hidden_size": meta["llama.embedding_length"],
        "initializer_range": 0.041666666666666664,
        "intermediate_size": meta["llama.feed_forward_length"],
        "max_position_embeddings": meta["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": meta["llama.attention.head_count"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        # The GGUF holds an f32; the model's own config says 1e-05.
        "rms_norm_eps": float(f"{meta['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_scaling": None,
        "rope_theta": meta["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": meta["llama.vocab_size"],
    }


def tokenizer(meta: dict) -> Tokenizer:
    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    built = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    built.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds) if kind == CONTROL_TOKEN]
    built.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return built


def write(reader: GGUFReader, out: Path) -> None:
    meta = metadata(reader)
    tokens = meta["tokenizer.ggml.tokens"]
    out.mkdir(parents=True, exist_ok=True)

    def write_json(name: str, value: dict) -> None:
        (out / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    roles = [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")]
    ids = {role: meta[f"tokenizer.ggml.{key}_token_id"] for role, key in roles}
    special = {f"{role}_token": tokens[i] for role, i in ids.items()}
    special["additional_special_tokens"] = ["<|im_start|>", "<|im_end|>"]
    built = tokenizer(meta)
    write_json("config.json", config(meta))
    write_json(
        "generation_config.json",
        {"_from_model_config": True, **{f"{role}_token_id": ids[role] for role in ["bos", "eos", "pad"]}},
    )
    write_json("special_tokens_map.json", special)
    write_json(
        "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(i): {"content": t.content, "lstrip": False, "normalized": False, "rstrip": False,
                         "single_word": False, "special": True}
                for i, t in sorted(built.get_added_tokens_decoder().items())
            },
            **special,
            "chat_template": meta["tokenizer.chat_template"],
            "clean_up_tokenization_spaces": False,
            "model_max_length": meta["llama.context_length"],
            "tokenizer_class": "GPT2Tokenizer",
            "vocab_size": len(tokens),
        },
    )
    built.save(str(out / "tokenizer.json"))
    weights = {name: value.astype(np.float16) for name, value in dequantized(reader, meta).items()}
    save_file(weights, str(out / "model.safetensors"), metadata={"format": "pt"})


def check(gguf: Path, reader: GGUFReader, out: Path) -> None:
    """Compares with transformers' own GGUF loader, which dequantizes with the gguf package and undoes the row
    order itself, so that neither is shared with this file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(str(out), dtype=torch.float32)
    exact = dequantized(reader, metadata(reader))
    weights = theirs.state_dict()
    weight_diff = max((weights[name] - torch.from_numpy(x)).abs().max().item() for name, x in exact.items())
    text = "The quick brown fox, born in 1984, didn't jump.\n\n  It was  naïve — 12,345 €!"
    ids = torch.tensor([AutoTokenizer.from_pretrained(str(out))(text)["input_ids"]])
    with torch.no_grad():
        reference = theirs(ids).logits
        rounded = ours(ids).logits
        ours.load_state_dict({name: torch.from_numpy(value) for name, value in exact.items()}, strict=False)
        unrounded = ours(ids).logits
    print(f"max |difference| from transformers' GGUF loader, f32, {ids.shape[1]} tokens:")
    print(f"  weights as dequantized here              {weight_diff:.3g}")
    print(f"  logits with them                         {(unrounded - reference).abs().max():.3g}")
    print(f"  logits after rounding them to float16    {(rounded - reference).abs().max():.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--check", action="store_true", help="compare logits with transformers' GGUF loader")
    args = parser.parse_args()
    reader = GGUFReader(args.gguf)
    write(reader, args.out)
    if args.check:
        check(args.gguf, reader, args.out)


if __name__ == "__main__":
    main()
