"""Writes a task's rows as JSONL, with the splits of MeZO: 1000 train and 500 dev rows from the train
split (dev is the tail of a seeded permutation), up to 1000 test rows from the validation split.

Needs the internet and `pip install datasets`:
    python3 scripts/task_data.py sst2 data/sst2 [--seed 0]
"""

import argparse
import json
import random
from pathlib import Path

SOURCES = {
    "sst2": ("nyu-mll/glue", "sst2"),
    "rte": ("aps/super_glue", "rte"),
    "cb": ("aps/super_glue", "cb"),
    "boolq": ("aps/super_glue", "boolq"),
    "wsc": ("aps/super_glue", "wsc.fixed"),
    "wic": ("aps/super_glue", "wic"),
    "multirc": ("aps/super_glue", "multirc"),
    "copa": ("aps/super_glue", "copa"),
    "record": ("aps/super_glue", "record"),
    "squad": ("rajpurkar/squad", None),
    "drop": ("ucinlp/drop", None),
}
TRAIN, DEV, TEST = 1000, 500, 1000


def write(path: Path, rows) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=SOURCES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    from datasets import load_dataset

    name, config = SOURCES[args.task]
    source = load_dataset(name, config)
    order = list(range(len(source["train"])))
    random.Random(args.seed).shuffle(order)
    dev = min(DEV, len(order) // 5)
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out / "train.jsonl", (source["train"][i] for i in order[: min(TRAIN, len(order) - dev)]))
    write(args.out / "dev.jsonl", (source["train"][i] for i in order[len(order) - dev :]))
    test = source["validation"]
    write(args.out / "test.jsonl", (test[i] for i in range(min(TEST, len(test)))))


if __name__ == "__main__":
    main()
