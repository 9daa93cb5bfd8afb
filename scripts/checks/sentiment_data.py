"""Checks configs/data/sentiment_{train,dev}.jsonl against where they come from.

The rows are 1,500 movie-review snippets with mean human ratings from the MIT-licensed vaderSentiment
package (Hutto & Gilbert, ICWSM 2014), label 1 where the rating is positive. This rebuilds every row
from the package by its id and compares; with --write it writes the files again.

Needs Python 3.9+ and pip, and nothing else:
    python3 scripts/checks/sentiment_data.py [--write]
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

DATA = Path(__file__).parents[2] / "configs" / "data"


def snippets() -> dict[str, tuple[float, str]]:
    """Rating and text by id, from the package's source archive."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "-d", folder, "vaderSentiment==3.3.2"], check=True)
        outer = next(Path(folder).glob("*.tar.gz"))
        with tarfile.open(outer) as archive:
            inner = next(m for m in archive.getmembers() if m.name.endswith("hutto_ICWSM_2014.tar.gz"))
            with tarfile.open(fileobj=archive.extractfile(inner)) as texts:
                name = next(m for m in texts.getnames() if m.endswith("movieReviewSnippets_GroundTruth.txt"))
                lines = texts.extractfile(name).read().decode("utf-8", "replace").splitlines()
    rows = (line.split("\t") for line in lines)
    return {row[0]: (float(row[1]), row[2]) for row in rows if len(row) >= 3}


def rebuild(path: Path, source: dict[str, tuple[float, str]]) -> str:
    out = []
    for line in path.read_text(encoding="utf-8").splitlines():
        key = json.loads(line)["id"]
        rating, text = source[key]
        text = " ".join(text.replace("''", '"').split())
        row = {"id": key, "text": text, "label": int(rating > 0), "score": round(rating, 4)}
        out.append(json.dumps(row, ensure_ascii=False))
    return "\n".join(out) + "\n"


def main() -> None:
    source = snippets()
    for path in sorted(DATA.glob("sentiment_*.jsonl")):
        text = rebuild(path, source)
        if "--write" in sys.argv:
            path.write_text(text, encoding="utf-8")
        same = text == path.read_text(encoding="utf-8")
        print(f"{path.name}: {len(text.splitlines())} rows {'as in the package' if same else 'DIFFER'}")
        if not same:
            sys.exit(1)


if __name__ == "__main__":
    main()
