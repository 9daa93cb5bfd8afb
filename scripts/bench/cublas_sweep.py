"""How fast this card's cuBLAS is, and what share of it qzo's packed product reaches.

Times torch.mm on random inputs and weights over the linear layers of the 7B, 13B and 32B models at 16 to 16384 rows; and, given
what `qzo bench --matmul --json` printed, at that table's own sizes first. A row of that table is a product
with both signs of a perturbation, `tokens` rows each. The two signs have weights of their own, so cuBLAS
must multiply twice; its weights are there in 16 bits, so that unpacking counts against qzo. They are random
4-bit levels times scales, as qzo's are: a card draws less power for them than for numbers whose bits are all
random, and so runs faster (--weights normal shows by how much).

    qzo bench --matmul --shape llama2-13b --tokens 8192 --device cuda --dtype bf16 --json > matmul.json
    python3 scripts/bench/cublas_sweep.py --qzo matmul.json > cublas.json
    python3 scripts/bench/cublas_sweep.py --device cpu --dtypes float32 --limit 1e9     # a rehearsal: small products only

Prints one JSON object, and Markdown tables on standard error. Its best_share is the largest share that a path
has of a whole layer's products at 4096 rows (else at the most rows there are), best_path that path. Needs torch.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

# [out_features, in_features]: q and o, k and v where they are fewer, gate and up, down.
LINEARS = {
    "llama2-13b": [(5120, 5120), (13824, 5120), (5120, 13824)],
    "qwen2.5-32b": [(1024, 5120), (27648, 5120), (5120, 27648)],
    "llama2-7b": [(4096, 4096), (11008, 4096), (4096, 11008)],
}
ROWS = [16, 64, 256, 1024, 2048, 4096, 8192, 16384]
BATCH_SECONDS, BATCHES = 0.01, 5
TARGET_ROWS = 4096


def weight(out: int, inner: int, kind: str, **on) -> torch.Tensor:
    """[out, inner]; "levels": groups of 64 share a scale."""
    if kind == "normal":
        return torch.randn(out, inner, **on)
    levels = torch.randint(-8, 8, (out, inner // 64, 64), device=on["device"], dtype=torch.int8)
    scales = 0.01 + 1e-4 * torch.randn(out, inner // 64, 1, device=on["device"])
    return (levels.to(on["dtype"]) * scales.to(on["dtype"])).flatten(1)


def seconds_per_product(rows: int, out: int, inner: int, kind: str, dtype: torch.dtype, device: str) -> float:
    """The best of some batches of launches; a batch lasts long enough for the clock. Operands take turns, so
    that small ones are read from memory, as a model's layers are."""
    on = {"dtype": dtype, "device": device}
    size = torch.finfo(dtype).bits // 8 * (out * inner + rows * inner)
    turns = max(1, min(8, int(2e8 / size)))
    xs = [torch.randn(rows, inner, **on) for _ in range(turns)]
    ws = [weight(out, inner, kind, **on) for _ in range(turns)]
    y = torch.empty(rows, out, **on)
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None

    def batch(launches: int) -> float:
        wait()
        start = time.perf_counter()
        for i in range(launches):
            torch.mm(xs[i % turns], ws[i % turns].t(), out=y)
        wait()
        return (time.perf_counter() - start) / launches

    batch(1)
    launches = max(1, min(200, int(BATCH_SECONDS / max(batch(1), 1e-6))))
    return min(batch(launches) for _ in range(BATCHES))


def per_layer(out: int, inner: int) -> int:
    """How many linears of a layer have this shape: q, k, v and o; gate and up; down."""
    return 4 if out == inner else 2 if out > inner else 1


def table(heads: list[str], rows: list[list[str]]) -> None:
    for row in [heads, ["---"] * len(heads), *rows]:
        print("| " + " | ".join(row) + " |", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16"])
    parser.add_argument("--qzo", type=Path, metavar="FILE", help="output of `qzo bench --matmul --json`")
    parser.add_argument("--limit", type=float, help="leave out products of more floating-point operations")
    parser.add_argument("--weights", choices=["levels", "normal"], default="levels")
    parser.add_argument("--seconds", type=float, default=30, help="begin no further product after these")
    args = parser.parse_args()
    start = time.perf_counter()
    torch.set_grad_enabled(False)
    text = args.qzo.read_text().strip() if args.qzo and args.qzo.exists() else ""
    measured = json.loads(text.splitlines()[-1]) if text else {"matmul": []}  # empty: the program was stopped
    own = {"f16": "float16", "bf16": "bfloat16"}.get(measured.get("dtype"), args.dtypes[0])
    ours = [row for row in measured["matmul"] if row.get("seconds")]

    sizes = [size for linears in LINEARS.values() for size in linears]
    sweep = [(dtype, rows, *size) for size in sizes for dtype in args.dtypes for rows in ROWS]
    joined = [(own, row["tokens"], row["out_features"], row["in_features"]) for row in ours]
    seconds = {}
    for dtype, rows, out, inner in dict.fromkeys(joined + sweep):
        small = args.limit is None or 2 * rows * out * inner <= args.limit
        if small and time.perf_counter() - start < args.seconds:
            at = (rows, out, inner, args.weights, getattr(torch, dtype), args.device)
            seconds[dtype, rows, out, inner] = seconds_per_product(*at)

    def tflops(at: tuple) -> float:
        return 2 * at[1] * at[2] * at[3] / seconds[at] / 1e12

    shares, layers = [], {}
    for at, row in zip(joined, ours):
        if at in seconds:
            share, times = 2 * seconds[at] / row["seconds"], per_layer(*at[2:])
            names = ("dtype", "rows", "out_features", "in_features")
            figures = {"path": row["path"], "qzo_tflops": tflops(at) * share, "share": share}
            shares.append(dict(zip(names, at)) | figures)
            layer = layers.setdefault((row["path"], at[1]), [0, 0.0, 0.0])
            layer[0] += 1
            layer[1] += times * 2 * seconds[at]
            layer[2] += times * row["seconds"]

    paths, rows = list(dict.fromkeys(p for p, _ in layers)), sorted({r for _, r in layers})
    linears = len({at[2:] for at in joined})
    whole = {key: cublas / qzo for key, (count, cublas, qzo) in layers.items() if count == linears}
    result = {"torch": torch.__version__, "weights": args.weights, "shares": shares}
    keys = ("dtype", "rows", "out_features", "in_features", "tflops")
    result["cublas"] = [dict(zip(keys, (*at, tflops(at)))) for at in seconds]
    judged = TARGET_ROWS if TARGET_ROWS in rows else max(rows, default=0)
    best = max((p for p in paths if (p, judged) in whole), key=lambda p: whole[p, judged], default=None)
    if best is not None:
        result |= {"best_rows": judged, "best_path": best, "best_share": whole[best, judged]}
    print(json.dumps(result), flush=True)

    def share_of(path: str, row: int) -> str:
        return f"{whole[path, row]:.1%}" if (path, row) in whole else ""

    heads = ["a layer's products in " + own, *(f"{r} rows" for r in rows)]
    table(heads, [[p, *(share_of(p, r) for r in rows)] for p in paths])
    print("|", file=sys.stderr)
    heads = ["rows", "out", "in", "path", "qzo TFLOP/s", "cuBLAS TFLOP/s", "share"]
    table(heads, [
        [str(s["rows"]), str(s["out_features"]), str(s["in_features"]), s["path"], f"{s['qzo_tflops']:.3g}",
         f"{s['qzo_tflops'] / s['share']:.3g}", f"{s['share']:.1%}"] for s in shares])
    print("|", file=sys.stderr)

    def speed(*at) -> str:
        return f"{tflops(at):.3g}" if at in seconds else ""

    table(["cuBLAS TFLOP/s", *(f"{r} rows" for r in ROWS)], [
        [f"{out} × {inner} {dtype}", *(speed(dtype, r, out, inner) for r in ROWS)]
        for out, inner in sizes for dtype in args.dtypes])


if __name__ == "__main__":
    main()
