"""Reads the event files of a run with TensorBoard's own loader and compares every number with metrics.jsonl.

    pip install tensorboard
    python3 scripts/checks/tensorboard_reads.py [QZO]

Trains the tiny model of the tests for a few steps, stops, and resumes, with exact gradients and by zeroth order.
"""

import json
import math
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

REPOSITORY = Path(__file__).resolve().parents[2]
TAGS = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "projected_grad": "train/projected_grad",
    "lr": "train/learning_rate",
    "tokens_per_second": "train/tokens_per_second",
    "eval_nll": "eval/nll",
    "eval_accuracy": "eval/accuracy",
    "eval_score": "eval/score",
}


def train(qzo, place, method):
    rows = [{"text": f"It was the age of wisdom {i}", "label": i % 2} for i in range(16)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "run.toml").write_text(f"""
model = "{REPOSITORY / 'tests/fixtures/runs/q4_1.gguf'}"
output_dir = "{method}"
device = "cpu"
[data]
train = "rows.jsonl"
dev = "rows.jsonl"
prompt = "{{text}} It was"
choices = [" bad", " good"]
[train]
method = "{method}"
learning_rate = 1e-3
lr_scheduler_type = "constant"
warmup_steps = 0
batch_size = 4
max_steps = 200
eval_steps = 40
save_steps = 20
report_to = ["tensorboard"]
""")
    command = [qzo, "finetune", "--config", "run.toml", "--quiet"]
    subprocess.run([*command, "--set", "train.max_steps=130"], cwd=place, check=True)
    subprocess.run([*command, "--resume"], cwd=place, check=True)
    return place / method


def logged(run):
    """The numbers of metrics.jsonl as 32-bit floats: tag -> {step: value}."""
    found = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for key, tag in TAGS.items():
            if line.get(key) is not None:
                (value,) = struct.unpack("f", struct.pack("f", line[key]))
                assert line["step"] not in found.setdefault(tag, {}), f"{tag} twice at step {line['step']}"
                found[tag][line["step"]] = value
    return found


def shown(run):
    """What TensorBoard shows: tag -> [(step, value)]. The loader turns scalars into tensors."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
    for tag in tags["tensors"]:
        found[tag] = [(e.step, make_ndarray(e.tensor_proto).item()) for e in events.Tensors(tag)]
    return found


def main():
    qzo = str(Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "target/release/qzo").resolve())
    with tempfile.TemporaryDirectory() as place:
        for method in ["exact", "zo"]:
            run = train(qzo, Path(place), method)
            expected, got = logged(run), shown(run)
            assert expected.keys() == got.keys(), (expected.keys(), got.keys())
            count = 0
            for tag, values in expected.items():
                assert got[tag] == list(values.items()), f"{tag} differs"
                assert all(math.isfinite(value) for _, value in got[tag])
                count += len(values)
            assert len(got["train/loss"]) == 200 and [step for step, _ in got["eval/nll"]][:3] == [0, 40, 80]
            print(f"{method}: {count} numbers under {len(got)} tags are those of metrics.jsonl: {', '.join(sorted(got))}")


if __name__ == "__main__":
    main()
