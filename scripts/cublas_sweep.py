"""How fast this card's cuBLAS is, and what share of it qzo's packed product reaches.

Times torch.matmul over the linear layers of 7B, 13B and 32B models at M = 16..8192 rows; and, given what
`qzo bench --matmul --json` printed, at that table's own sizes too. A row of that table is one product with
both signs of the perturbation, so T tokens count as M = 2T rows, and it is compared with cuBLAS at 2T rows
of weights that are there in 16 bits: unpacking counts against qzo.

    qzo bench --matmul --device cuda --dtype f16 --json > matmul.json
    python3 scripts/cublas_sweep.py --qzo matmul.json > cublas.json
    python3 scripts/cublas_sweep.py --device cpu --limit 1e9     # a rehearsal: small products only

Prints one JSON object, and a Markdown table of the shares on standard error. Needs torch.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

# [out_features, in_features]: q and o, k and v where they are fewer, gate and up, down.
LINEARS = {
    "llama2-7b": [(4096, 4096), (11008, 4096), (4096, 11008)],
    "llama2-13b": [(5120, 5120), (13824, 5120), (5120, 13824)],
    "qwen2.5-32b": [(5120, 5120), (1024, 5120), (27648, 5120), (5120, 27648)],
}
ROWS = [16 << i for i in range(10)]
BATCH_SECONDS, BATCHES = 0.004, 5


def seconds_per_product(rows: int, out: int, inner: int, dtype: torch.dtype, device: str) -> float:
    """The best of some batches of launches; a batch lasts long enough for the clock."""
    x = torch.randn(rows, inner, dtype=dtype, device=device)
    w = torch.randn(out, inner, dtype=dtype, device=device)
    y = torch.empty(rows, out, dtype=dtype, device=device)
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None

    def batch(launches: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(launches):
            torch.mm(x, w.t(), out=y)
        wait()
        return (time.perf_counter() - start) / launches

    batch(1)
    launches = max(1, min(200, int(BATCH_SECONDS / max(batch(1), 1e-6))))
    return min(batch(launches) for _ in range(BATCHES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", nargs="+", default=["float16", "bfloat16"])
    parser.add_argument("--qzo", type=Path, metavar="FILE", help="output of `qzo bench --matmul --json`")
    parser.add_argument("--limit", type=float, help="leave out products of more floating-point operations")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    text = args.qzo.read_text() if args.qzo else ""
    report = json.loads(text) if text.strip() else {"matmul": []}  # empty: the program was stopped
    dtypes = list(dict.fromkeys(args.dtypes))
    own = {"f16": "float16", "bf16": "bfloat16"}.get(report.get("dtype"), dtypes[0])

    sizes = {linear for linears in LINEARS.values() for linear in linears}
    sweep = [(dtype, rows, *size) for dtype in dtypes for size in sorted(sizes) for rows in ROWS]
    joined = [(own, 2 * row["tokens"], row["out_features"], row["in_features"]) for row in report["matmul"]]
    tflops = {}
    for dtype, rows, out, inner in dict.fromkeys(joined + sweep):
        operations = 2 * rows * out * inner
        if args.limit is None or operations <= args.limit:
            seconds = seconds_per_product(rows, out, inner, getattr(torch, dtype), args.device)
            tflops[dtype, rows, out, inner] = operations / seconds / 1e12

    keys = ("dtype", "rows", "out_features", "in_features", "tflops")
    cublas = [dict(zip(keys, (*at, t))) for at, t in tflops.items()]
    result = {"torch": torch.__version__, "cublas": cublas, "shares": []}
    print("| tokens | out | in | path | qzo TFLOP/s | cuBLAS TFLOP/s | share |", file=sys.stderr)
    print("|---|---|---|---|---|---|---|", file=sys.stderr)
    for at, row in zip(joined, report["matmul"]):
        if at in tflops:
            ours, share = row["gflops"] / 1e3, row["gflops"] / 1e3 / tflops[at]
            sizes = (row["tokens"], row["out_features"], row["in_features"], row["path"])
            named = dict(zip(("tokens", "out_features", "in_features", "path"), sizes))
            result["shares"].append(named | {"share": share})
            row = "| {} | {} | {} | {} |".format(*sizes)
            print(row, f"{ours:.3g} | {tflops[at]:.3g} | {share:.0%} |", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
