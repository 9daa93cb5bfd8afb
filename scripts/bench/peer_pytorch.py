"""A step of QZO in PyTorch, as a fair peer of `qzo bench --shape` on the same card.

The same method on the same shape: 4-bit codes stay packed on the device; each pass rebuilds one weight at a
time in 16 bits from its perturbed scales and multiplies with cuBLAS; scaled-dot-product attention; logits
at the answers only; scales perturbed in place from a seed (+eps, -2eps, back and on to the update). Weights are
random, made on the card, and sequences are of equal length, so nothing is padded.

Two results. Eager: single PyTorch operations; of several ways to rebuild a weight the fastest here. Compiled:
torch.compile makes one graph of a layer for fixed sizes, so that rebuilding a weight is one kernel, and
norms, rotations, gates and sums are fused; where that fails, rebuilding alone is compiled.

    python3 scripts/bench/peer_pytorch.py --shape llama2-13b --tokens 4096 --seq-length 256 --cap 24
    python3 scripts/bench/peer_pytorch.py --shape tiny --group-size 64 --tokens 256 --seq-length 64 --device cpu

Prints a JSON object a line. step_seconds is the median of steps that each end with a wait for the device;
tokens_per_second counts both passes, as qzo does. peak_bytes is what PyTorch had allocated at most, driver_bytes what
the card was short of at the end beyond what it was before. Needs torch 2.5 or later.
"""

import argparse
import json
import sys
import time

import torch
import torch.nn.functional as F

# Layers, hidden, intermediate, heads, key/value heads, vocabulary.
SHAPES = {
    "tiny": (2, 256, 704, 4, 2, 1024),
    "llama2-7b": (32, 4096, 11008, 32, 32, 32000),
    "llama2-13b": (40, 5120, 13824, 40, 40, 32000),
    "qwen2.5-32b": (64, 5120, 27648, 40, 8, 152064),
    "llama3-70b": (80, 8192, 28672, 64, 8, 128256),
}
EPS, LEARNING_RATE = 1e-2, 5e-3


def rebuild(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """codes uint8 [out, groups, size/2], the low nibbles a group's first half; scales f32 [out, groups]
    -> s * (q - 8), [out, in]. The one to compile."""
    q = torch.cat([codes & 15, codes >> 4], dim=-1).to(dtype)
    return ((q - 8) * scales.to(dtype)[..., None]).flatten(1)


def rebuild_by_halves(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The same with the least traffic that single operations allow: 5 bytes a weight in 16 bits."""
    out, groups, half = codes.shape
    s = scales.to(dtype)[..., None]
    bias, w = -8 * s, torch.empty(out, groups, 2 * half, dtype=dtype, device=codes.device)
    torch.addcmul(bias, codes & 15, s, out=w[..., :half])
    torch.addcmul(bias, codes >> 4, s, out=w[..., half:])
    return w.flatten(1)


def rebuild_in_place(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The same by operations on one type each, for which PyTorch has its fastest kernels: 13 bytes a weight."""
    out, groups, half = codes.shape
    w = torch.empty(out, groups, 2 * half, dtype=dtype, device=codes.device)
    w[..., :half] = codes & 15
    w[..., half:] = codes >> 4
    return w.sub_(8).mul_(scales.to(dtype)[..., None]).flatten(1)


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def layer(x, packed, norm, cos, sin, heads, kv_heads, unpack) -> torch.Tensor:
    """x [B, T, hidden], packed: seven pairs of codes and scales -> [B, T, hidden]."""
    batch, tokens, hidden = x.shape
    q, k, v, o, gate, up, down = packed

    def linear(x, weight):
        return F.linear(x, unpack(*weight, x.dtype))

    normed = F.rms_norm(x, (hidden,), norm, 1e-5)
    q, k, v = (linear(normed, w).view(batch, tokens, -1, hidden // heads).transpose(1, 2) for w in (q, k, v))
    q, k = rotated(q, cos, sin), rotated(k, cos, sin)
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=kv_heads != heads)
    x = x + linear(attended.transpose(1, 2).reshape(batch, tokens, hidden), o)
    normed = F.rms_norm(x, (hidden,), norm, 1e-5)
    return x + linear(F.silu(linear(normed, gate)) * linear(normed, up), down)


class Model:
    def __init__(self, args: argparse.Namespace, dtype: torch.dtype):
        layers, hidden, inner, self.heads, self.kv_heads, vocab = SHAPES[args.shape]
        self.device, self.dtype, self.group_size = args.device, dtype, args.group_size
        kv = hidden // self.heads * self.kv_heads
        sizes = [(hidden, hidden), (kv, hidden), (kv, hidden), (hidden, hidden)]
        sizes += [(inner, hidden), (inner, hidden), (hidden, inner)]
        self.layers = [[self.packed(*size) for size in sizes] for _ in range(layers)]
        on = {"device": args.device, "dtype": dtype}
        self.embedding, self.head = (torch.randn(vocab, hidden, **on) for _ in range(2))
        self.head.mul_(hidden**-0.5)
        self.norm = torch.ones(hidden, **on)
        head_dim = hidden // self.heads
        angles = torch.arange(args.seq_length)[:, None] / 1e4 ** (torch.arange(0, head_dim, 2) / head_dim)
        self.cos, self.sin = (f(angles).repeat(1, 2).to(**on) for f in (torch.cos, torch.sin))  # [T, head_dim]
        self.layer, self.unpack = layer, rebuild_in_place

    def packed(self, out: int, inner: int) -> tuple[torch.Tensor, torch.Tensor]:
        groups, rest = divmod(inner, self.group_size)
        assert rest == 0, f"groups of {self.group_size} do not divide {inner} input features"
        codes = torch.randint(0, 256, (out, groups, self.group_size // 2), dtype=torch.uint8, device=self.device)
        return codes, torch.full((out, groups), unit(inner), device=self.device)

    def loss(self, ids: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """ids [B, T], answers [B] -> mean cross-entropy, f32."""
        x = F.embedding(ids, self.embedding)  # [B, T, hidden]
        for packed in self.layers:
            x = self.layer(x, packed, self.norm, self.cos, self.sin, self.heads, self.kv_heads, self.unpack)
        last = F.rms_norm(x[:, -1], (x.shape[-1],), self.norm, 1e-5)
        return F.cross_entropy(F.linear(last, self.head).float(), answers)

    def move(self, seed: int, by: float) -> None:
        generator = torch.Generator(self.device).manual_seed(seed)
        for packed in self.layers:
            for codes, scales in packed:
                noise = torch.randn(scales.shape, generator=generator, device=self.device)
                scales.add_(noise, alpha=by * unit(codes.shape[1] * self.group_size))

    def step(self, seed: int, ids: torch.Tensor, answers: torch.Tensor) -> float:
        self.move(seed, EPS)
        plus = self.loss(ids, answers)
        self.move(seed, -2 * EPS)
        minus = self.loss(ids, answers)
        d = (plus - minus).item() / (2 * EPS)  # the step's one wait
        self.move(seed, EPS - LEARNING_RATE * max(-100.0, min(100.0, d)) / 100)
        return (plus + minus).item() / 2


def unit(inner: int) -> float:
    """The scale with which a weight of uniform codes keeps the size of its input."""
    return 1 / (8 * (inner / 3) ** 0.5)


def waiting(device: str):
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def fastest_unpack(model: Model):
    """The eager way to rebuild a weight that takes the least time on a layer's largest."""
    codes, scales = max(model.layers[0], key=lambda packed: packed[0].numel())
    wait, taken = waiting(model.device), {}
    for unpack in (rebuild_by_halves, rebuild_in_place):
        try:
            unpack(codes, scales, model.dtype)  # loads kernels
        except RuntimeError as error:  # mixed types are not for every version
            print(f"{unpack.__name__}: {str(error).splitlines()[:1]}", file=sys.stderr)
            continue
        for _ in range(3):
            wait()
            start = time.perf_counter()
            unpack(codes, scales, model.dtype)
            wait()
            taken[unpack] = min(time.perf_counter() - start, taken.get(unpack, float("inf")))
    return min(taken, key=taken.get)


def timed(model: Model, ids: torch.Tensor, answers: torch.Tensor, steps: int) -> dict:
    wait = waiting(model.device)
    if ids.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    start, seconds = time.perf_counter(), []
    loss = model.step(0, ids, answers)
    result = {"first_step_seconds": time.perf_counter() - start, "loss": loss}
    for seed in range(1, steps + 1):
        wait()
        start = time.perf_counter()
        model.step(seed, ids, answers)
        wait()
        seconds.append(time.perf_counter() - start)
    seconds.sort()
    median = seconds[len(seconds) // 2]
    result |= {"step_seconds": median, "step_seconds_min": seconds[0], "tokens_per_second": 2 * ids.numel() / median}
    return result | ({"peak_bytes": torch.cuda.max_memory_allocated()} if ids.is_cuda else {})


def compiled_ways(model: Model):
    """Names of what is compiled, the most first; the model is set up for each as it is asked for."""
    model.layer, model.unpack = torch.compile(layer, dynamic=False), rebuild
    yield "layer"
    model.layer, model.unpack = layer, torch.compile(rebuild, dynamic=False)
    yield "rebuilding a weight"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama2-13b")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--seq-length", type=int, default=256)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5, help="after one that is not counted")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--cap", type=float, metavar="GB", help="memory that PyTorch may take on the card")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    args.device = "cuda:0" if args.device == "cuda" else args.device
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    on_card = args.device.startswith("cuda")
    if on_card:
        torch.cuda.set_device(args.device)
        free, total = torch.cuda.mem_get_info()
        if args.cap:
            torch.cuda.set_per_process_memory_fraction(min(1.0, args.cap * 1e9 / total))
    start = time.perf_counter()
    model = Model(args, getattr(torch, args.dtype))
    vocab, sequences = SHAPES[args.shape][-1], args.tokens // args.seq_length
    ids = torch.randint(0, vocab, (sequences, args.seq_length), device=args.device)
    answers = torch.randint(0, vocab, (sequences,), device=args.device)
    ids.sum().item()  # everything is there
    setting = {"engine": f"pytorch {torch.__version__}", "shape": args.shape, "dtype": args.dtype}
    setting |= {"tokens": ids.numel(), "seq_length": args.seq_length, "load_seconds": time.perf_counter() - start}

    def say(compiled: bool, what: str, result: dict) -> None:
        taken = {"driver_bytes": free - torch.cuda.mem_get_info()[0]} if on_card else {}
        print(json.dumps(setting | {"compiled": compiled, "what": what} | result | taken), flush=True)

    model.unpack = fastest_unpack(model)
    say(False, model.unpack.__name__, timed(model, ids, answers, args.steps))
    if args.no_compile:
        return
    for what in compiled_ways(model):
        try:
            say(True, what, timed(model, ids, answers, args.steps))
            return
        except Exception as error:  # no Triton, no C compiler, ...: the eager result stands
            print(f"not compiled ({what}): {type(error).__name__}: {str(error).splitlines()[:1]}", file=sys.stderr)


if __name__ == "__main__":
    main()
