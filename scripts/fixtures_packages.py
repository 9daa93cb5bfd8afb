"""Adds to tests/fixtures/checkpoints/ the Llama of fixtures_checkpoints.py as other packages quantize it.

    ct-w4-group/             compressed-tensors pack-quantized, 4 bits, symmetric, groups of 16
    ct-w4-asym-actorder/     asymmetric, groups of 16, each of features that are no neighbours (weight_g_idx)
    ct-w8-channel-ignore/    8 bits, one scale per row; one linear is left alone, the config under the old key
    ct-w3-asym/              3 bits (ten codes to a word), asymmetric, groups of 8
    ct-w4-head/              4 bits, groups of 32, lm_head quantized too
    awq-gemm/                AutoAWQ, 4 bits, groups of 32
    bnb-nf4-double/          bitsandbytes, NF4 in blocks of 32, their scales quantized in blocks of 16
    bnb-fp4/                 bitsandbytes, FP4 in blocks of 32
    mlx-mixed/               MLX affine, each kind of linear with other bits, down_proj in groups of 64, tables too

    <name>.expected.safetensors  what the package expands the tensors to, in f32
    <name>/tokenizer.json        one word to a token, so that a task can be trained
    <name>/expected.json         input_ids and token_nll of the expanded model in transformers, f32

compressed-tensors' own ModelCompressor packs the model and writes its config, and its files are loaded again
through transformers. AutoAWQ's WQLinear_GEMM.from_linear packs, and its dequantize_gemm expands; of that package
only the sources are needed, on the path. bitsandbytes' and MLX's functions quantize and expand.
Needs compressed-tensors 0.15.0.1, transformers 4.57.6, torch 2.9.1, bitsandbytes 0.50.2, mlx 0.32.4 (mlx[cpu] on
Linux), and the sources of autoawq 0.2.9. Names after the command: only these.

    PYTHONPATH=AUTOAWQ python scripts/fixtures_packages.py
"""

import importlib.util
import json
import logging
import pathlib
import sys
import types

import bitsandbytes.functional as bnb
import mlx.core as mx
import numpy as np
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from fixtures_checkpoints import CONFIG, OUT, VOCAB, fresh, model, save, write_json

# Of as many tokens as the model has: three that stand for others, and words for a task.
WORDS = """[UNK] <s> </s> It was the best of times worst age wisdom epoch belief season light darkness spring hope
winter despair bad good""".split()
IGNORED = "model.layers.0.mlp.down_proj"
COMPRESSED = {
    "ct-w4-group": dict(num_bits=4, symmetric=True, strategy="group", group_size=16),
    "ct-w4-asym-actorder": dict(num_bits=4, symmetric=False, strategy="group", group_size=16, actorder="group"),
    "ct-w8-channel-ignore": dict(num_bits=8, symmetric=True, strategy="channel"),
    "ct-w3-asym": dict(num_bits=3, symmetric=False, strategy="group", group_size=8),
    "ct-w4-head": dict(num_bits=4, symmetric=True, strategy="group", group_size=32),
}


def dense(tensors):
    llama = LlamaForCausalLM(LlamaConfig(**CONFIG | {"attn_implementation": "eager"})).eval()
    llama.load_state_dict({name: torch.as_tensor(tensor).float() for name, tensor in tensors.items()})
    return llama


@torch.no_grad()
def write_expected(name, llama, tensors):
    rng = np.random.Generator(np.random.Philox(11))
    cases = []
    for length in (5, 30):
        ids = [1] + rng.integers(3, VOCAB, length - 1).tolist()
        logp = llama(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nll = [-logp[i, token].item() for i, token in enumerate(ids[1:])]
        cases.append({"input_ids": ids, "token_nll": [float(f"{x:.7g}") for x in nll]})
    write_json(OUT / name / "expected.json", cases)
    vocab = {word: i for i, word in enumerate(WORDS + [f"word{i}" for i in range(len(WORDS), VOCAB)])}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    }
    write_json(OUT / name / "tokenizer.json", tokenizer)
    save(tensors, OUT / f"{name}.expected.safetensors")


def set_parameters(module, args, rng):
    """The scales, zero points and groups of one linear, by the package's own formulas."""
    weight = module.weight.float()
    size = args.group_size or weight.shape[1]
    groups = torch.arange(weight.shape[1]) // size
    if args.actorder:
        groups = groups[torch.from_numpy(rng.permutation(weight.shape[1]))]
        module.weight_g_idx.data = groups.int()
    grouped = torch.stack([weight[:, groups == g] for g in range(groups.max() + 1)], 1)
    scale, zero_point = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
    module.weight_scale.data = scale.half()
    module.weight_zero_point.data = zero_point.to(torch.int8)


def write_compressed(name, settings, tensors):
    directory = fresh(name)
    llama = dense(tensors).half()
    ignore = ([] if "head" in name else ["lm_head"]) + ([IGNORED] if "ignore" in name else [])
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**settings), format="pack-quantized")
    apply_quantization_config(llama, QuantizationConfig(config_groups={"group_0": scheme}, ignore=ignore))
    rng = np.random.Generator(np.random.Philox(13))
    for _, module in llama.named_modules():
        if hasattr(module, "quantization_scheme"):
            set_parameters(module, module.quantization_scheme.weights, rng)
    compressor = ModelCompressor.from_pretrained_model(llama)
    compressor.compress_model(llama)
    llama.save_pretrained(directory)
    compressor.update_config(directory)

    stored, expected = load_file(directory / "model.safetensors"), {}
    for key in tensors:
        module = key.removesuffix(".weight")
        part = f"{module}.weight_"
        state = {k.removeprefix(module + "."): v for k, v in stored.items() if k.startswith(part)}
        if state:
            state["weight_scale"] = state["weight_scale"].float()
            state["weight_shape"] = torch.Size(state["weight_shape"].tolist())
            expected[key] = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
        else:
            expected[key] = stored[key].float()
    loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    loaded(torch.tensor([[1]]))  # expands the weights
    for key, value in expected.items():
        assert torch.equal(loaded.state_dict()[key], value), key
    write_expected(name, loaded, expected)
    if "ignore" in name:  # as sparseml and the first llm-compressor wrote it
        config = json.loads((directory / "config.json").read_text())
        config["compression_config"] = config.pop("quantization_config") | {"quantization_status": "frozen"}
        write_json(directory / "config.json", config)


def autoawq():
    """Its modules without its __init__ files, which import much else."""
    root = pathlib.Path(importlib.util.find_spec("awq").origin).parent
    for name in ("awq", "awq.modules", "awq.modules.linear", "awq.utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    return WQLinear_GEMM, dequantize_gemm


def write_awq(name, group_size, tensors):
    linear_of, expand = autoawq()
    directory = fresh(name)
    stored, expected = {}, {}
    for key, weight in tensors.items():
        if weight.ndim == 1 or ".layers." not in key:
            stored[key] = torch.as_tensor(weight).half()
            expected[key] = stored[key].float()
            continue
        module, weight = key.removesuffix(".weight"), torch.as_tensor(weight)
        # from_linear packs multiples of 32 rows only, though 8 fill a word: the rest is cut off again.
        rows = weight.shape[0]
        weight = torch.nn.functional.pad(weight, (0, 0, 0, -rows % 32))
        # AwqQuantizer.pseudo_quantize_tensor
        grouped = weight.reshape(-1, group_size)
        low, high = grouped.amin(1, keepdim=True), grouped.amax(1, keepdim=True)
        scales = (high - low).clamp(min=1e-5) / 15
        zeros = (-torch.round(low / scales)).clamp(0, 15)
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        codes = torch.clamp(torch.round(grouped / scales) + zeros, 0, 15)
        linear.weight.data = ((codes - zeros) * scales).reshape(weight.shape)
        scales, zeros = (x.reshape(weight.shape[0], -1).t().contiguous() for x in (scales, zeros))
        packed = linear_of.from_linear(linear, 4, group_size, scales=scales, zeros=zeros)
        parts = {
            "qweight": packed.qweight.cpu()[:, : rows // 8],
            "qzeros": packed.qzeros.cpu()[:, : rows // 8],
            "scales": packed.scales[:, :rows],
        }
        stored |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
        values = expand(parts["qweight"], parts["qzeros"], parts["scales"].float(), 4, group_size)
        expected[key] = values.t()
    quantization = {
        "quant_method": "awq",
        "zero_point": True,
        "group_size": group_size,
        "bits": 4,
        "version": "gemm",
        "modules_to_not_convert": None,
    }
    write_json(directory / "config.json", CONFIG | {"torch_dtype": "float16", "quantization_config": quantization})
    save(stored, directory / "model.safetensors")
    write_expected(name, dense(expected), expected)


def write_bitsandbytes(name, kind, double, tensors):
    directory = fresh(name)
    stored, expected = {}, {}
    for key, weight in tensors.items():
        weight = torch.as_tensor(weight)
        if weight.ndim == 1 or ".layers." not in key:
            stored[key] = weight.half()
            expected[key] = stored[key].float()
            continue
        codes, state = bnb.quantize_4bit(weight, blocksize=32, quant_type=kind)
        if double:  # as quantize_4bit does it in blocks of 256, of which these weights have only one
            state.offset = state.absmax.mean()
            state.absmax, state.state2 = bnb.quantize_blockwise(state.absmax - state.offset, blocksize=16)
            state.nested = True
        stored[key] = codes
        stored |= {f"{key}.{part}": value for part, value in state.as_dict(packed=True).items()}
        expected[key] = bnb.dequantize_4bit(codes, state)
    quantization = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": double,
        "llm_int8_skip_modules": ["lm_head"],
    }
    write_json(directory / "config.json", CONFIG | {"torch_dtype": "float16", "quantization_config": quantization})
    save(stored, directory / "model.safetensors")
    write_expected(name, dense(expected), expected)


MLX_BITS = {"q_proj": 2, "k_proj": 3, "v_proj": 4, "o_proj": 5, "gate_proj": 6, "up_proj": 8, "down_proj": 4,
            "embed_tokens": 8, "lm_head": 6}


def write_mlx(name, tensors):
    directory = fresh(name)
    stored, expected = {}, {}
    quantization = {"group_size": 32, "bits": 4, "mode": "affine"}
    for key, weight in tensors.items():
        module = key.removesuffix(".weight")
        if weight.ndim == 1:
            stored[key] = weight.astype(np.float16)
            expected[key] = stored[key].astype(np.float32)
            continue
        bits, group_size = MLX_BITS[module.split(".")[-1]], 64 if module.endswith("down_proj") else 32
        codes, scales, biases = mx.quantize(mx.array(weight).astype(mx.float16), group_size=group_size, bits=bits)
        parts = {"weight": codes, "scales": scales, "biases": biases}
        stored |= {f"{module}.{part}": np.array(tensor) for part, tensor in parts.items()}
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        expected[key] = np.array(mx.dequantize(codes, scales, biases, group_size=group_size, bits=bits))
        if (bits, group_size) != (4, 32):
            quantization[module] = {"group_size": group_size, "bits": bits}
    config = CONFIG | {"torch_dtype": "float16", "quantization": quantization, "quantization_config": quantization}
    write_json(directory / "config.json", config)
    save_numpy(stored, directory / "model.safetensors", {"format": "mlx"})
    write_expected(name, dense(expected), expected)


def main(only):
    logging.disable(logging.WARNING)
    tensors = model()
    made = {name: (write_compressed, name, settings) for name, settings in COMPRESSED.items()}
    made["awq-gemm"] = (write_awq, "awq-gemm", 32)
    made["bnb-nf4-double"] = (write_bitsandbytes, "bnb-nf4-double", "nf4", True)
    made["bnb-fp4"] = (write_bitsandbytes, "bnb-fp4", "fp4", False)
    made["mlx-mixed"] = (write_mlx, "mlx-mixed")
    for name, (write, *arguments) in made.items():
        if not only or name in only:
            write(*arguments, tensors)


if __name__ == "__main__":
    main(sys.argv[1:])
