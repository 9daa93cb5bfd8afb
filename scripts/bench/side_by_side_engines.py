"""The peers of scripts/bench/side_by_side.py: steps of one engine in a process of its own, as JSON.

    python scripts/bench/side_by_side_engines.py pytorch-qzo-float32 MODEL.gguf BATCH.json --steps 5 --threads 2

A batch is [{"input_ids": [...], "candidates": [id, id], "label": 0}].
"""

import argparse
import ctypes
import gc
import json
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "checks"))
EPS = 1e-2


def memory_bytes(field: str) -> int:
    """VmRSS: held now; VmHWM: the most so far."""
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) * 1024


def timed(step, count: int) -> dict:
    """`step()` returns the loss. One step is not counted, nor is memory that only loading took."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    loss, seconds, cpu_seconds = step(), [], []
    for _ in range(count):
        start, cpu_start = time.perf_counter(), time.process_time()
        step()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {"loss": loss, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": memory_bytes("VmHWM")}


def two_way_loss(logits: np.ndarray, batch: list[dict]) -> float:
    """Mean cross-entropy over two candidates; logits [rows, vocab]."""
    rows = range(len(batch))
    right, wrong = (logits[rows, [b["candidates"][b["label"] ^ flip] for b in batch]] for flip in (0, 1))
    return float(np.logaddexp(0, wrong - right).mean())


def llama_model(gguf: Path, dtype, keep_packed: bool):
    """The Hugging Face model with dense weights, or with `Rebuilt` ones in every layer."""
    import torch
    from gguf import GGUFReader
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    import smollm2_hf

    class Rebuilt(torch.nn.Module):
        """w[o, g*32 + i] = scales[o, g] * codes[o, g, i] + minima[o, g]; a minimum moves by its scale's factor."""

        def __init__(self, d, m, codes):
            super().__init__()
            self.scales, self.codes = torch.from_numpy(d), torch.from_numpy(codes)
            self.offsets = torch.from_numpy(m) / torch.where(self.scales == 0, 1, self.scales)
            self.unit = self.scales.abs().mean().item()  # noise is of the size of the weight's usual scale

        def forward(self, x):
            s, m = (v.to(x.dtype)[..., None] for v in (self.scales, self.scales * self.offsets))
            return torch.nn.functional.linear(x, self.codes.to(x.dtype).mul_(s).add_(m).flatten(1))

    reader = GGUFReader(gguf)
    meta = smollm2_hf.metadata(reader)
    config = LlamaConfig(**smollm2_hf.config(meta), attn_implementation="sdpa")
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
    model.model.rotary_emb = LlamaRotaryEmbedding(config)
    for tensor in reader.tensors:
        name = smollm2_hf.hf_name(tensor.name).removesuffix(".weight")
        if keep_packed and name.endswith("_proj"):
            blocks = smollm2_hf.q4_1_blocks(smollm2_hf.hf_rows(tensor.name, tensor.data, meta))
            model.set_submodule(name, Rebuilt(*blocks))
        else:
            value = torch.from_numpy(smollm2_hf.hf_rows(tensor.name, smollm2_hf.float32(tensor), meta))
            model.get_submodule(name).weight = torch.nn.Parameter(value.to(dtype).clone(), requires_grad=False)
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def pytorch(args: argparse.Namespace, batch: list[dict]) -> dict:
    """One pass takes [1, tokens] with positions that start again and a mask that keeps texts apart."""
    import torch
    from transformers import LlamaForCausalLM  # noqa: F401, so that it is counted as runtime

    runtime_bytes = memory_bytes("VmRSS")
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    _, kind, dtype = args.engine.split("-")
    model = llama_model(args.gguf, getattr(torch, dtype), kind == "qzo")
    rebuilt = [module for module in model.modules() if hasattr(module, "codes")]
    lengths = torch.tensor([len(row["input_ids"]) for row in batch])
    ids = torch.tensor([[token for row in batch for token in row["input_ids"]]])
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    text = torch.repeat_interleave(torch.arange(len(batch)), lengths)
    mask = ((text[:, None] == text) & torch.ones(len(text), len(text), dtype=torch.bool).tril())[None, None]

    def loss() -> float:
        hidden = model.model(ids, position_ids=positions, attention_mask=mask, use_cache=False).last_hidden_state
        return two_way_loss(model.lm_head(hidden[0, lengths.cumsum(0) - 1]).float().numpy(), batch)

    def move(seed: int, by: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        for module in rebuilt:
            noise = torch.randn(module.scales.shape, generator=generator)
            module.scales.add_(noise, alpha=by * module.unit)

    def qzo_step() -> float:
        move(0, EPS)
        plus = loss()
        move(0, -2 * EPS)
        minus = loss()
        move(0, EPS)
        move(0, 1e-6 * EPS * (minus - plus))  # hardly a step, so that the loss stays comparable
        return (plus + minus) / 2

    step = qzo_step if rebuilt else lambda: (loss() + loss()) / 2
    return timed(step, args.steps) | {"runtime_bytes": runtime_bytes}


@cache
def silent_log():
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda *_: None)


def llama_cpp(args: argparse.Namespace, batch: list[dict]) -> dict:
    import llama_cpp

    runtime_bytes = memory_bytes("VmRSS")
    llama_cpp.llama_log_set(silent_log(), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(args.gguf).encode(), llama_cpp.llama_model_default_params())
    tokens = sum(len(row["input_ids"]) for row in batch)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = -(-tokens // 256) * 256
    params.n_seq_max, params.kv_unified = len(batch), True
    params.n_threads = params.n_threads_batch = args.threads
    context = llama_cpp.llama_init_from_model(model, params)
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    packed, last = llama_cpp.llama_batch_init(tokens, 0, 1), []
    for sequence, row in enumerate(batch):
        for position, token in enumerate(row["input_ids"]):
            at = packed.n_tokens
            packed.token[at], packed.pos[at], packed.n_seq_id[at] = token, position, 1
            packed.seq_id[at][0], packed.logits[at] = sequence, position == len(row["input_ids"]) - 1
            packed.n_tokens += 1
        last.append(packed.n_tokens - 1)

    def loss() -> float:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
        assert llama_cpp.llama_decode(context, packed) == 0
        rows = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, at), (vocab,)) for at in last]
        return two_way_loss(np.stack(rows), batch)

    return timed(lambda: (loss() + loss()) / 2, args.steps) | {"runtime_bytes": runtime_bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", help="llama.cpp or pytorch-KIND-DTYPE: plain or qzo, float32 or bfloat16")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("batch", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    engine = llama_cpp if args.engine == "llama.cpp" else pytorch
    print(json.dumps(engine(args, json.loads(args.batch.read_text()))))


if __name__ == "__main__":
    main()
