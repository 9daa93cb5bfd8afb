"""Writes tests/fixtures/checkpoints/blocks.gguf: a model whose matrices are in the block types of llama.cpp that the
gguf package cannot write, mixed as in the files that people have, quantized by llama.cpp's own library.

    blocks.gguf                    Q2_K to Q6_K where rows are of 256, Q5_0 and Q5_1 where they are of 32
    blocks.expected.safetensors    what the gguf package expands it to
    blocks.expected.json           the NLL of each token with these values in transformers, f64

llama.cpp then reads the file, and must give such NLLs as far as its inputs in 8 bits let it.

Needs numpy, torch, transformers, safetensors, gguf, llama-cpp-python.

    python scripts/fixtures_blocks.py
"""

import ctypes
import json
import pathlib

import gguf
import llama_cpp
import numpy as np
import torch
from fixtures_gguf import add_vocabulary
from fixtures_runs import permute, stored_name
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures"
HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 256, 32, 2, 1, 16, 128
CONFIG = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LINEARS = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN, "Q4_K", "Q6_K"),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN, "Q2_K", "Q3_K"),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN, "Q6_K", "Q5_K"),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM, "Q5_0", "Q5_1"),
    "mlp.gate_proj": (INNER, HIDDEN, "Q3_K", "Q4_K"),
    "mlp.up_proj": (INNER, HIDDEN, "Q5_K", "Q2_K"),
    "mlp.down_proj": (HIDDEN, INNER, "Q5_1", "Q5_0"),
}
# Inputs in 8 bits, and a random model whose logits are far from flat.
TOLERANCE = 0.15
LIBRARY = ctypes.CDLL(str(pathlib.Path(llama_cpp.__file__).parent / "lib/libggml-base.so"))
LIBRARY.ggml_quantize_chunk.restype = ctypes.c_size_t


def model():
    """Name -> values and type."""
    rng = np.random.default_rng(11)

    def normal(*shape):
        return (rng.standard_normal(shape) * 0.08).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": (normal(VOCAB, HIDDEN), "Q6_K"),
        "model.norm.weight": (1 + normal(HIDDEN), "F32"),
        "lm_head.weight": (normal(VOCAB, HIDDEN), "Q4_K"),
    }
    for layer in range(2):
        for name, (rows, columns, *types) in LINEARS.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = (normal(rows, columns), types[layer])
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = (1 + normal(HIDDEN), "F32")
    # Blocks whose scale is 0: constant where there are minima, else all zero.
    tensors["model.layers.0.mlp.down_proj.weight"][0][3] = 0.25
    tensors["model.layers.1.mlp.gate_proj.weight"][0][2] = -0.25
    tensors["model.layers.1.self_attn.q_proj.weight"][0][5] = 0.0
    return tensors


def quantize(weight, kind):
    """llama.cpp's blocks, uint8 [rows, bytes]."""
    size, bytes_per_block = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = weight.shape
    blocks = np.zeros((rows, columns // size * bytes_per_block), np.uint8)
    weight = np.ascontiguousarray(weight)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (weight, blocks)]
    numbers = [ctypes.c_int64(n) for n in (0, rows, columns)]
    written = LIBRARY.ggml_quantize_chunk(ctypes.c_int(kind), *pointers, *numbers, None)
    assert written == blocks.nbytes
    return blocks


def write(path, tensors):
    """What was written, expanded: Hugging Face name -> f32 in Hugging Face order."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(CONFIG["rope_theta"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    add_vocabulary(writer, CONFIG, json.loads((FIXTURES / "llama/base/tokenizer.json").read_text()))
    expanded = {}
    for name, (weight, kind) in tensors.items():
        heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else None
        kind = gguf.GGMLQuantizationType[kind]
        if weight.ndim == 1:
            writer.add_tensor(stored_name(name), weight)
            expanded[name] = weight
            continue
        blocks = quantize(permute(weight, heads) if heads else weight, kind)
        writer.add_tensor(stored_name(name), blocks, raw_dtype=kind)
        values = gguf.quants.dequantize(blocks, kind).astype(np.float32)
        if heads:
            half = values.shape[0] // heads // 2
            values = values.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(weight.shape)
        expanded[name] = np.ascontiguousarray(values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expanded


def token_nll(logits, ids):
    logits = torch.as_tensor(logits, dtype=torch.float64)[: len(ids) - 1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").tolist()


@torch.no_grad()
def main():
    path = FIXTURES / "checkpoints/blocks.gguf"
    expanded = write(path, model())
    save_file(expanded, path.with_suffix(".expected.safetensors"))
    reference = LlamaForCausalLM(LlamaConfig(**CONFIG)).double().eval()
    reference.load_state_dict({name: torch.from_numpy(value).double() for name, value in expanded.items()})
    rng = np.random.default_rng(3)
    sequences = [rng.integers(4, VOCAB, length).tolist() for length in (2, 9, 40)]
    cases = [{"input_ids": ids, "token_nll": token_nll(reference(torch.tensor([ids])).logits[0], ids)}
             for ids in sequences]
    path.with_suffix(".expected.json").write_text(json.dumps(cases) + "\n")

    in_llama_cpp = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False)
    for case in cases:
        in_llama_cpp.reset()
        in_llama_cpp.eval(case["input_ids"])
        got = token_nll(np.array(in_llama_cpp.scores), case["input_ids"])
        worst = np.abs(np.array(got) - np.array(case["token_nll"])).max()
        print(f"{len(got)} tokens of NLL {np.mean(case['token_nll']):.3f}: llama.cpp's differ by up to {worst:.4f}")
        assert worst < TOLERANCE
    sizes = [file.stat().st_size for file in path.parent.glob("blocks.*")]
    assert max(sizes) < 700_000, sizes


if __name__ == "__main__":
    main()
