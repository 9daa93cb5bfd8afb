#!/usr/bin/env python3
"""Compares the exact gradient of the scales in bf16 with that in f32, on a real model.

    python3 scripts/checks/gradient_fidelity.py target/release/qzo configs/smollm2-sentiment.toml [--model MODEL]

For each seed, qzo takes one step of plain gradient descent in each type. The change of the logarithms of the scales,
read from the run's snapshot, is the gradient up to the learning rate. Prints the cosine between the two and the ratio of
their norms, of all scales and of the weight with the least cosine. Needs numpy and safetensors.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from safetensors import safe_open

TRAIN = Path(__file__).parents[2] / "configs" / "data" / "sentiment_train.jsonl"
RATE = 1e-3


def scales(arguments: argparse.Namespace, seed: int, dtype: str, rate: float, folder: Path) -> dict[str, np.ndarray]:
    """The scales after one step of gradient descent."""
    out = folder / f"{dtype}-{seed}-{rate}"
    # The evaluations before and after the step take no time on two rows.
    dev = folder / "dev.jsonl"
    dev.write_text("".join(TRAIN.read_text().splitlines(keepends=True)[:2]))
    settings = {
        "data.dev": dev,
        "train.max_steps": 1,
        "train.optimizer": "sgd",
        "train.learning_rate": rate,
        "train.lr_scheduler_type": "constant",
        "train.warmup_steps": 0,
        "train.max_grad_norm": "inf",
        "train.eval_steps": 0,
    }
    command = [arguments.qzo, "finetune", "--config", arguments.recipe, "-o", str(out), "--device", arguments.device]
    command += ["--dtype", dtype, "--seed", str(seed), "--quiet"]
    command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    if arguments.model:
        command += ["--model", arguments.model]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with safe_open(out / "snapshot.safetensors", "numpy") as snapshot:
        names = [name for name in snapshot.keys() if name.endswith(".weight")]
        return {name: snapshot.get_tensor(name).astype(np.float64) for name in names}


def gradient(arguments: argparse.Namespace, seed: int, dtype: str, folder: Path) -> dict[str, np.ndarray]:
    """The gradient of the logarithms of the scales, without the groups whose scale is 0."""
    before, after = (scales(arguments, seed, dtype, rate, folder) for rate in (0, RATE))
    moves = {name: before[name] != 0 for name in before}
    return {name: np.log(after[name][moves[name]] / before[name][moves[name]]) / -RATE for name in before}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("qzo")
    parser.add_argument("recipe")
    parser.add_argument("--model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            wide, narrow = (gradient(arguments, seed, dtype, Path(folder)) for dtype in ("f32", "bf16"))
            whole = [np.concatenate([part[name] for name in sorted(part)]) for part in (wide, narrow)]
            least = min(wide, key=lambda name: cosine(wide[name], narrow[name]))
            print(json.dumps({
                "seed": seed,
                "cosine": cosine(*whole),
                "norm_ratio": float(np.linalg.norm(whole[1]) / np.linalg.norm(whole[0])),
                "least": {"weight": least, "cosine": cosine(wide[least], narrow[least])},
            }))


if __name__ == "__main__":
    main()
