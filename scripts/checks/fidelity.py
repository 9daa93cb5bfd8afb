"""How well each compute type of qzo sees the slope: its projected gradients against PyTorch in f64.

The same 16 rows are the batch of every step and the learning rate is 0, so `qzo finetune` measures
d = (L+ - L-)/2eps along one new direction a step and moves nothing. An independent PyTorch model
(scripts/checks/reference_qzo.py) computes d for the same seeds with everything after the scales in f64.
What an error means is judged by the noise that training lives with anyway: the spread of d along one
direction over batches of 16 other rows, measured by qzo in f32.

Prints a table on standard error and one JSON object:

    python scripts/checks/fidelity.py target/release/qzo models/SmolLM2-135M-Instruct.Q4_1.gguf

100 directions take PyTorch about a quarter of an hour on two cores; with --cache FILE they are computed once.
--measured FILE keeps what qzo measured, so that a card's figures can be compared on another machine.
Needs what scripts/checks/reference_qzo.py needs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

import reference_qzo as qzo

TRAIN = Path(__file__).parents[2] / "configs" / "data" / "sentiment_train.jsonl"
ROWS, MAX_TOKENS, EPS, RUN_SEED = 16, 28, 1e-2, 0
RECIPE = """
model = {model}
seed = {seed}
[data]
train = {train}
prompt = {prompt}
choices = {choices}
max_seq_length = {max_tokens}
overlong = "drop"
[train]
max_steps = {steps}
batch_size = {rows}
learning_rate = 0.0
zo_eps = {eps}
clip = 1e9
scale_mode = "relative"
perturbation = "gaussian"
save_steps = 0
"""


def step_seed(run_seed: int, step: int) -> int:
    """The noise seed of a step, counted from 0: two words of Philox stream 5."""
    low, high, *_ = qzo.philox(np.array([step & 0xFFFFFFFF]), step >> 32, 0, 5, run_seed)
    return int(low[0]) | int(high[0]) << 32


def batches(tokenizer: Tokenizer, count: int) -> list[list[str]]:
    """Disjoint batches of 16 lines of the training file that keep within MAX_TOKENS with their candidate."""
    fitting = []
    for line in TRAIN.read_text(encoding="utf-8").splitlines():
        prompt = qzo.PROMPT.format(text=json.loads(line)["text"])
        if len(tokenizer.encode(prompt).ids) < MAX_TOKENS:
            fitting.append(line)
    assert len(fitting) >= count * ROWS, f"{len(fitting)} rows are not {count} batches of {ROWS}"
    return [fitting[i * ROWS : (i + 1) * ROWS] for i in range(count)]


def measured(args: argparse.Namespace, lines: list[str], steps: int, dtype: str) -> np.ndarray:
    """d of each step by qzo, [steps]."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        values = {"model": str(args.gguf.resolve()), "train": str(folder / "rows.jsonl"), "steps": steps}
        values |= {"seed": RUN_SEED, "prompt": qzo.PROMPT, "choices": qzo.CANDIDATES, "rows": ROWS}
        values |= {"max_tokens": MAX_TOKENS, "eps": EPS}
        toml = RECIPE.format(**{key: json.dumps(value) for key, value in values.items()})
        (folder / "run.toml").write_text(toml, encoding="utf-8")
        command = [args.qzo.resolve(), "finetune", "--config", folder / "run.toml", "-o", folder / "run"]
        command += ["--device", args.device, "--dtype", dtype, "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    found = np.array([row["projected_grad"] for row in metrics if "projected_grad" in row])
    assert len(found) == steps, f"{len(found)} of {steps} steps"
    return found


def exact(args: argparse.Namespace, reference: qzo.Reference, lines: list[str]) -> np.ndarray:
    """d of each step in f64, [steps]."""
    cache = args.cache and args.cache.exists() and json.loads(args.cache.read_text())
    known = cache["d"] if cache and cache["rows"] == lines else []
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("\n".join(lines))
        file.flush()
        batch = reference.rows(Path(file.name))
    for step in range(len(known), args.steps):
        found = reference.probe(batch, step_seed(RUN_SEED, step), 0, EPS, "relative", "gaussian")
        known.append(found["projected_grad"])
        if args.cache:
            args.cache.write_text(json.dumps({"rows": lines, "d": known}))
        print(f"f64: direction {step + 1} of {args.steps}, d = {known[-1]:+.4f}", file=sys.stderr)
    return np.array(known[: args.steps])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qzo", type=Path)
    parser.add_argument("gguf", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--dtypes", nargs="+", default=["f32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=100, help="directions compared with f64")
    parser.add_argument("--batches", type=int, default=25, help="batches for the batch noise")
    parser.add_argument("--noise-steps", type=int, default=4, help="directions the batch noise is taken at")
    parser.add_argument("--cache", type=Path, help="keeps what was computed in f64")
    parser.add_argument("--measured", type=Path, help="keeps what qzo measured, or gives it")
    args = parser.parse_args()
    qzo.self_test()
    assert step_seed(0, 0) == 0xE5A5EA882A497E61 and step_seed(42, 141) == 0x7580F7589866109C
    qzo.LlamaRMSNorm.forward = qzo.rms_norm
    reference = qzo.Reference(args.gguf, "gguf", torch.float64)
    fixed, *fresh = batches(reference.tokenizer, 1 + args.batches)

    if args.measured and args.measured.exists():
        kept = json.loads(args.measured.read_text())
    else:
        kept = {"device": args.device, "d": {t: measured(args, fixed, args.steps, t).tolist() for t in args.dtypes}}
        kept["over_batches"] = [measured(args, lines, args.noise_steps, "f32").tolist() for lines in fresh]
        if args.measured:
            args.measured.write_text(json.dumps(kept))
    d, over_batches = {dtype: np.array(found) for dtype, found in kept["d"].items()}, np.array(kept["over_batches"])
    batch_noise = float(np.sqrt(over_batches.var(axis=0, ddof=1).mean()))
    d64 = exact(args, reference, fixed)

    rms = float(np.sqrt((d64**2).mean()))
    report = {"device": kept["device"], "directions": args.steps, "rms_d": rms, "batch_noise": batch_noise}
    report |= {"batches": args.batches, "noise_directions": args.noise_steps, "dtypes": {}}
    print(f"rms d {rms:.3f}; spread over batches of {ROWS} at one direction {batch_noise:.3f}", file=sys.stderr)
    print("dtype  rms error / rms d  signs agree    error / batch noise", file=sys.stderr)
    for dtype, found in d.items():
        error, signs = float(np.sqrt(((found - d64) ** 2).mean())), int((np.sign(found) == np.sign(d64)).sum())
        row = {"relative_rms_error": error / rms, "signs_agree": signs, "error_over_batch_noise": error / batch_noise}
        report["dtypes"][dtype] = row | {"max_error": float(np.abs(found - d64).max())}
        counted = f"{signs} of {args.steps}"
        print(f"{dtype:5}  {error / rms:17.2e}  {counted:13}  {error / batch_noise:.2e}", file=sys.stderr)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
