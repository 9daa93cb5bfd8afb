"""A step of QZO in PyTorch, as a fair peer of `qzo bench --shape` on the same card.

The same method on the same shape: 4-bit codes stay packed on the device; each pass rebuilds one weight at a
time in 16 bits from its perturbed scales and multiplies with cuBLAS; scaled-dot-product attention; logits
at the answers only; scales perturbed in place from a seed (+eps, -2eps, +eps, update). Weights are random and
sequences of equal length, so nothing is padded. A weight is rebuilt by a chain of PyTorch operations, and then,
where torch.compile works, by one compiled kernel.

    python3 scripts/peer_pytorch.py --shape llama2-13b --tokens 4096 --seq-length 256 --cap 24
    python3 scripts/peer_pytorch.py --shape tiny --device cpu       # a rehearsal without a card
    python3 scripts/peer_pytorch.py --hold-all-but 24               # leaves 24 GB to other programs

Prints a JSON object a line, the fastest way last. tokens_per_second counts both passes, as qzo does. peak_bytes is what PyTorch had
allocated at most, driver_bytes what the card was short of at the end beyond what it was before.
Needs torch 2.4 or later.
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
    -> s * (q - 8), [out, in]."""
    q = torch.cat([codes & 15, codes >> 4], dim=-1).to(dtype)
    s = scales.to(dtype)[..., None]
    return torch.addcmul(-8 * s, q, s).flatten(1)


def rebuild_in_parts(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The same with as little traffic as single operations allow."""
    out, groups, half = codes.shape
    w = torch.empty(out, groups, 2 * half, dtype=dtype, device=codes.device)
    w[..., :half] = codes & 15
    w[..., half:] = codes >> 4
    return w.sub_(8).mul_(scales.to(dtype)[..., None]).flatten(1)


class Linear:
    def __init__(self, out: int, inner: int, args: argparse.Namespace):
        groups, rest = divmod(inner, args.group_size)
        assert rest == 0, f"groups of {args.group_size} do not divide {inner} input features"
        on = {"device": args.device}
        self.codes = torch.randint(0, 256, (out, groups, args.group_size // 2), dtype=torch.uint8, **on)
        self.scales = torch.full((out, groups), 1 / (8 * (inner / 3) ** 0.5), **on)
        self.unit = self.scales[0, 0].item()

    def __call__(self, x: torch.Tensor, unpack) -> torch.Tensor:
        return F.linear(x, unpack(self.codes, self.scales, x.dtype))


class Model:
    def __init__(self, args: argparse.Namespace, dtype: torch.dtype):
        layers, hidden, inner, self.heads, self.kv_heads, vocab = SHAPES[args.shape]
        kv = hidden // self.heads * self.kv_heads
        sizes = {"q": (hidden, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, hidden)}
        sizes |= {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
        self.layers = [{name: Linear(*size, args) for name, size in sizes.items()} for _ in range(layers)]
        on = {"device": args.device, "dtype": dtype}
        self.embedding, self.head = (torch.randn(vocab, hidden, **on) for _ in range(2))
        self.head.mul_(hidden**-0.5)
        self.norm = torch.ones(hidden, **on)
        head_dim = hidden // self.heads
        angles = torch.arange(args.seq_length)[:, None] / 1e4 ** (torch.arange(0, head_dim, 2) / head_dim)
        self.cos, self.sin = (f(angles).repeat(1, 2).to(**on) for f in (torch.cos, torch.sin))  # [T, head_dim]
        self.unpack = rebuild_in_parts

    def linears(self):
        return (linear for layer in self.layers for linear in layer.values())

    def rotated(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-second, first], dim=-1) * self.sin

    def loss(self, ids: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """ids [B, T], answers [B] -> mean cross-entropy, f32."""
        x = F.embedding(ids, self.embedding)  # [B, T, hidden]
        batch, tokens, hidden = x.shape
        for layer in self.layers:
            normed = F.rms_norm(x, (hidden,), self.norm, 1e-5)
            q, k, v = (layer[name](normed, self.unpack) for name in "qkv")
            q, k, v = (y.view(batch, tokens, -1, hidden // self.heads).transpose(1, 2) for y in (q, k, v))
            q, k, grouped = self.rotated(q), self.rotated(k), self.kv_heads != self.heads
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
            x = x + layer["o"](attended.transpose(1, 2).reshape(batch, tokens, hidden), self.unpack)
            normed = F.rms_norm(x, (hidden,), self.norm, 1e-5)
            gated = F.silu(layer["gate"](normed, self.unpack)) * layer["up"](normed, self.unpack)
            x = x + layer["down"](gated, self.unpack)
        last = F.rms_norm(x[:, -1], (hidden,), self.norm, 1e-5)
        return F.cross_entropy(F.linear(last, self.head).float(), answers)

    def move(self, seed: int, by: float) -> None:
        device = self.embedding.device
        generator = torch.Generator(device).manual_seed(seed)
        for linear in self.linears():
            noise = torch.randn(linear.scales.shape, generator=generator, device=device)
            linear.scales.add_(noise, alpha=by * linear.unit)

    def step(self, seed: int, ids: torch.Tensor, answers: torch.Tensor) -> float:
        self.move(seed, EPS)
        plus = self.loss(ids, answers)
        self.move(seed, -2 * EPS)
        minus = self.loss(ids, answers)
        d = (plus - minus).item() / (2 * EPS)  # the step's one synchronization
        self.move(seed, EPS)
        self.move(seed, -LEARNING_RATE * max(-100.0, min(100.0, d)) / 100)
        return (plus + minus).item() / 2


def timed(model: Model, ids: torch.Tensor, answers: torch.Tensor, steps: int) -> dict:
    on_card = ids.is_cuda
    wait = torch.cuda.synchronize if on_card else lambda: None
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    loss, seconds = model.step(0, ids, answers), []
    for seed in range(1, steps + 1):
        wait()
        start = time.perf_counter()
        model.step(seed, ids, answers)
        wait()
        seconds.append(time.perf_counter() - start)
    seconds.sort()
    median = seconds[len(seconds) // 2]
    result = {"step_seconds": median, "step_seconds_min": seconds[0], "tokens_per_second": 2 * ids.numel() / median}
    return result | {"loss": loss} | ({"peak_bytes": torch.cuda.max_memory_allocated()} if on_card else {})


def hold_all_but(gigabytes: float, device: str) -> None:
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.empty(max(0, int(free - gigabytes * 1e9)), dtype=torch.uint8, device=device)
    print(f"holding {held.numel() / 1e9:.1f} GB", flush=True)
    sys.stdin.read()  # until the other side closes it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama2-13b")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--seq-length", type=int, default=256)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5, help="after one that is not counted")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--cap", type=float, metavar="GB", help="memory that PyTorch may take on the card")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--hold-all-but", type=float, metavar="GB")
    args = parser.parse_args()
    args.device = "cuda:0" if args.device == "cuda" else args.device
    if args.hold_all_but is not None:
        return hold_all_but(args.hold_all_but, args.device)
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

    def say(compiled: bool, result: dict) -> None:
        taken = {"driver_bytes": free - torch.cuda.mem_get_info()[0]} if on_card else {}
        print(json.dumps(setting | {"compiled": compiled} | result | taken), flush=True)

    plain = timed(model, ids, answers, args.steps)
    say(False, plain)
    if args.no_compile:
        return
    try:
        model.unpack = torch.compile(rebuild, dynamic=True)
        compiled = timed(model, ids, answers, args.steps)
    except Exception as error:  # no Triton, no C compiler, ...: the plain result stands
        print(f"not compiled: {type(error).__name__}: {str(error).splitlines()[:1]}", file=sys.stderr)
        return
    if compiled["step_seconds"] < plain["step_seconds"]:
        say(True, compiled)


if __name__ == "__main__":
    main()
