"""A PyTorch reference of QZO on SmolLM2-135M-Instruct, to compare qzo's losses and trajectories with.

Same noise (Philox4x32-10, popcount gaussian or rademacher), same rounding of coefficients, same parameter
ids and scale indices, so that with the same seed both programs perturb every scale by the same factor.
Weights are the GGUF's own Q4_1 blocks (w = d*q + m, m moves with d) or, with --weights rtn64, an asymmetric
4-bit round-to-nearest with groups of 64 of its float16 dequantization (w = s*(q - zero)).

Prints one JSON object. With GGUF = models/SmolLM2-135M-Instruct.Q4_1.gguf:

    # accuracy and two-way NLL before training: prompt "{text} It was", candidates " terrible", " great"
    python scripts/checks/reference_qzo.py GGUF --zero-shot sentiment_dev.jsonl
    # a probe file of the first 16 rows; then L(+), L(-), d on it (--f64: everything after the scales in f64)
    python scripts/checks/reference_qzo.py GGUF --make-probe-file sentiment_train.jsonl > probe.json
    python scripts/checks/reference_qzo.py GGUF --probe-file probe.json
    # a training run: L(+), L(-), d and the applied coefficient of each step; then dev accuracy and NLL
    python scripts/checks/reference_qzo.py GGUF --train sentiment_train.jsonl --zero-shot sentiment_dev.jsonl --steps 142

A probe file: {"seed", "probe", "eps", "mode": "relative"|"absolute", "kind": "gaussian"|"rademacher",
"batch": [{"input_ids": [...], "candidates": [id, id], "label": 0}]}.

Needs: gguf 0.19.0, numpy 2.4.6, safetensors 0.8.0, tokenizers 0.22.2, torch 2.9.1, transformers 4.57.6.
"""

import argparse
import json
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import smollm2_hf

PROMPT, CANDIDATES = "{text} It was", [" terrible", " great"]


def philox(c0: np.ndarray, c1: int, c2: int, c3: int, seed: int) -> list[np.ndarray]:
    """Philox4x32-10 (Salmon et al. 2011): four uint32 words per counter, kept in uint64 arrays."""
    low, x0 = np.uint64(0xFFFFFFFF), c0.astype(np.uint64)
    x1, x2, x3 = (np.full_like(x0, c) for c in (c1, c2, c3))
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
        x0, x2 = (p1 >> np.uint64(32)) ^ x1 ^ np.uint64(k0), (p0 >> np.uint64(32)) ^ x3 ^ np.uint64(k1)
        x1, x3 = p1 & low, p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [x0, x1, x2, x3]


@lru_cache(maxsize=256)  # one probe's worth: both signs and the step ask for the same integers
def noise(kind: str, seed: int, parameter: int, probe: int, count: int) -> np.ndarray:
    """The integers k of one weight's scales, int64 [count]; z = k/sqrt(32) (gaussian) or k (rademacher)."""
    index = np.arange(count, dtype=np.uint64)
    if kind == "gaussian":
        return sum(np.bitwise_count(w).astype(np.int64) for w in philox(index, parameter, probe, 0, seed)) - 64
    words = np.stack(philox(np.arange(-(-count // 128)), parameter, probe, 1, seed), axis=1)
    bits = words[:, :, None] >> np.arange(32, dtype=np.uint64) & np.uint64(1)
    return bits.reshape(-1)[:count].astype(np.int64) * 2 - 1


def sixteen_bits(x: float) -> np.float32:
    """Rounded to 16 significant bits, ties to even, so that the product with k is exact in f32."""
    mantissa, exponent = math.frexp(x)
    return np.float32(math.ldexp(round(mantissa * 2**16), exponent - 16))


def coefficient(x: float, kind: str) -> np.float32:
    """What multiplies k where x multiplies z."""
    return sixteen_bits(x / math.sqrt(32) if kind == "gaussian" else x)


def self_test() -> None:
    seed = 0x123456789ABCDEF0
    words = philox(np.array([0x243F6A88]), 0x85A308D3, 0x13198A2E, 0x03707344, 0x299F31D0A4093822)
    assert [int(w[0]) for w in words] == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    gaussian = [-1, -7, -8, -8, 10, 1, -1, 0, -6, -5, 0, -3, -6, -5, 1, -10]
    assert noise("gaussian", seed, 7, 0, 16).tolist() == gaussian
    assert [k > 0 for k in noise("rademacher", seed, 7, 0, 16)] == [c == "+" for c in "++---+-++++-----"]


class PackedWeight:
    """w[o, g*size + i] = scales[o, g] * codes[o, g, i] + minima[o, g]; rows in Hugging Face order."""

    def __init__(self, scales: np.ndarray, minima: np.ndarray, codes: np.ndarray):
        self.scales, self.minima = scales.astype(np.float32), minima.astype(np.float32)
        self.codes = torch.from_numpy(codes)  # uint8 [out, groups, group_size]
        # A group whose scale is 0 is constant and not trained.
        self.trained = self.scales != 0

    def moved(self, c: np.float32, k: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
        """Scales and minima at a distance of c*k; the minimum moves by its scale's factor."""
        k = k.reshape(self.scales.shape).astype(np.float32)
        if mode == "relative":
            t = np.float32(1) + c * k
            scales, minima = self.scales * t, self.minima * t
        else:
            scales = self.scales + c * k
            t = np.divide(scales, self.scales, out=np.ones_like(scales), where=self.trained)
            minima = self.minima * t
        return np.where(self.trained, scales, self.scales), np.where(self.trained, minima, self.minima)

    def unpacked(self, scales: np.ndarray, minima: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        s, m = (torch.from_numpy(x).to(dtype)[..., None] for x in (scales, minima))
        return self.codes.to(dtype).mul_(s).add_(m).flatten(1)


def rtn(weight: np.ndarray, group_size: int, bits: int = 4) -> PackedWeight:
    """Asymmetric round-to-nearest; the range includes 0 and codes are taken with the stored f16 scale."""
    w = weight.astype(np.float16).astype(np.float32).reshape(weight.shape[0], -1, group_size)
    low, high, top = np.minimum(w.min(-1), 0), np.maximum(w.max(-1), 0), 2**bits - 1
    scales = ((high - low) / top).astype(np.float16).astype(np.float32)
    safe = np.where(scales == 0, 1, scales)
    zeros = np.clip(np.rint(-low / safe), 0, top)
    codes = np.clip(np.rint(w / safe[..., None]) + zeros[..., None], 0, top).astype(np.uint8)
    return PackedWeight(scales, -scales * zeros, codes)


class Reference:
    def __init__(self, gguf: Path, weights: str, dtype: torch.dtype):
        reader = GGUFReader(gguf)
        meta = smollm2_hf.metadata(reader)
        self.tokenizer = smollm2_hf.tokenizer(meta)
        config = LlamaConfig(**smollm2_hf.config(meta), attn_implementation="sdpa")
        self.model = LlamaForCausalLM(config).to(dtype).eval()
        dense = smollm2_hf.dequantized(reader, meta)
        self.model.load_state_dict({name: torch.from_numpy(value) for name, value in dense.items()}, strict=False)
        self.packed = {}
        for tensor in reader.tensors:
            name = smollm2_hf.hf_name(tensor.name)
            if "_proj" in name:
                if weights == "gguf":
                    d, m, codes = smollm2_hf.q4_1_blocks(smollm2_hf.hf_rows(tensor.name, tensor.data, meta))
                    self.packed[name] = PackedWeight(d, m, codes)
                else:
                    self.packed[name] = rtn(dense[name], 64)
        self.names = sorted(self.packed, key=str.encode)  # the parameter id is the index in this list
        self.parameters = dict(self.model.named_parameters())
        for name, weight in self.packed.items():
            target = self.parameters[name].data
            target.copy_(weight.unpacked(weight.scales, weight.minima, target.dtype))

    def set_scales(self, c: np.float32, seed: int, probe: int, kind: str, mode: str, keep: bool = False) -> None:
        """Puts the weights at scales + c*k into the model; `keep` makes that the new scales."""
        for parameter, name in enumerate(self.names):
            weight, target = self.packed[name], self.parameters[name].data
            scales, minima = weight.moved(c, noise(kind, seed, parameter, probe, weight.scales.size), mode)
            if keep:
                weight.scales, weight.minima = scales, minima
            target.copy_(weight.unpacked(scales, minima, target.dtype))

    @torch.no_grad()
    def log_probs(self, batch: list[dict]) -> torch.Tensor:
        """log p(candidate | prompt), [batch, candidates]; every candidate is one token."""
        lengths = torch.tensor([len(row["input_ids"]) for row in batch])
        ids = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
        for i, row in enumerate(batch):
            ids[i, : lengths[i]] = torch.tensor(row["input_ids"])  # padded on the right
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        hidden = self.model.model(ids, attention_mask=mask).last_hidden_state
        logits = self.model.lm_head(hidden[torch.arange(len(batch)), lengths - 1])
        return logits.log_softmax(-1).gather(1, torch.tensor([row["candidates"] for row in batch]))

    def losses(self, batch: list[dict]) -> torch.Tensor:
        """Cross-entropy over the candidates, [batch]."""
        labels = torch.tensor([[row["label"]] for row in batch])
        return -self.log_probs(batch).log_softmax(-1).gather(1, labels)[:, 0].double()

    def probe(self, batch: list[dict], seed: int, probe: int, eps: float, mode: str, kind: str) -> dict:
        loss = {}
        for sign in (1, -1):
            self.set_scales(coefficient(sign * eps, kind), seed, probe, kind, mode)
            loss[sign] = self.losses(batch).mean().item()
        return {"loss_plus": loss[1], "loss_minus": loss[-1], "projected_grad": (loss[1] - loss[-1]) / (2 * eps)}

    def rows(self, path: Path, max_tokens: float = math.inf) -> list[dict]:
        candidates = [self.tokenizer.token_to_id(text.replace(" ", "Ġ")) for text in CANDIDATES]
        found = []
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            if len(self.tokenizer.encode(row["text"]).ids) <= max_tokens:
                ids = self.tokenizer.encode(PROMPT.format(text=row["text"])).ids
                found.append({"input_ids": ids, "candidates": candidates, "label": row["label"]})
        return found

    def evaluate(self, rows: list[dict]) -> dict:
        rows = sorted(rows, key=lambda row: len(row["input_ids"]))
        nll = torch.cat([self.losses(rows[i : i + 32]) for i in range(0, len(rows), 32)])
        # Between two candidates the label wins where its probability is above one half.
        return {"n": len(rows), "accuracy": (nll < math.log(2)).double().mean().item(), "nll": nll.mean().item()}


def train(reference: Reference, args: argparse.Namespace) -> dict:
    """Paper mode. Step i uses the noise seed `seed + i`; batches are drawn by numpy, not as qzo draws them."""
    rows = reference.rows(args.train, args.max_tokens)
    rng = np.random.Generator(np.random.Philox(args.seed))
    steps = []
    for step in range(args.steps):
        batch = [rows[i] for i in rng.choice(len(rows), args.batch_size, replace=False)]
        found = reference.probe(batch, args.seed + step, 0, args.eps, args.mode, args.kind)
        c = coefficient(-args.lr * max(-args.clip, min(args.clip, found["projected_grad"])), args.kind)
        reference.set_scales(c, args.seed + step, 0, args.kind, args.mode, keep=True)
        steps.append({"step": step, "seed": args.seed + step, **found, "coefficient": float(c)})
    return {"rows": len(rows), "steps": steps}


def rms_norm(self, x: torch.Tensor) -> torch.Tensor:
    """LlamaRMSNorm.forward without its detour through f32."""
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--weights", choices=["gguf", "rtn64"], default="gguf")
    parser.add_argument("--zero-shot", type=Path, metavar="DEV.jsonl", help="evaluate, after --train if given")
    parser.add_argument("--limit", type=int, help="evaluate the first rows only")
    parser.add_argument("--probe-file", type=Path)
    parser.add_argument("--make-probe-file", type=Path, metavar="TRAIN.jsonl")
    parser.add_argument("--train", type=Path, metavar="TRAIN.jsonl")
    parser.add_argument("--f64", action="store_true")
    # Texts of more than max-tokens tokens are not trained on.
    defaults = {"steps": 3, "batch-size": 16, "max-tokens": 28, "seed": 0, "eps": 1e-2, "lr": 5e-3, "clip": 100.0}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--mode", choices=["relative", "absolute"], default="relative")
    parser.add_argument("--kind", choices=["gaussian", "rademacher"], default="gaussian")
    args = parser.parse_args()
    self_test()
    if args.f64:
        LlamaRMSNorm.forward = rms_norm
    reference = Reference(args.gguf, args.weights, torch.float64 if args.f64 else torch.float32)
    result = {}
    if args.make_probe_file:
        result = {"seed": args.seed, "probe": 0, "eps": args.eps, "mode": args.mode, "kind": args.kind}
        result["batch"] = reference.rows(args.make_probe_file)[: args.batch_size]
    if args.probe_file:
        result = reference.probe(**json.loads(args.probe_file.read_text()))
    if args.train:
        result = train(reference, args)
    if args.zero_shot:
        result["dev"] = reference.evaluate(reference.rows(args.zero_shot)[: args.limit])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
