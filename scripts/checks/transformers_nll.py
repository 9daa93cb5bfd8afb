"""Compares `qzo eval MODEL --score` with transformers: per-token negative log-likelihoods, f32.

MODEL is a Hugging Face directory, or a .gguf with --reference naming a directory of the same architecture
(scripts/checks/smollm2_hf.py makes one). transformers then runs that architecture and tokenizer with the GGUF's
own values, because rounding them to float16 alone moves a token's NLL by more than the tolerance.
Sequences are drawn from the vocabulary with a fixed seed, and texts with awkward bytes go through both
tokenizers.

Prints one line per sequence and the largest difference; exits 1 beyond --tolerance (nats).

Needs: numpy 2.4.6, torch 2.9.1, transformers 4.57.6; for a .gguf also gguf 0.19.0.

    python scripts/checks/transformers_nll.py tests/fixtures/llama/base
    python scripts/checks/transformers_nll.py models/SmolLM2-135M-Instruct.Q4_1.gguf --reference models/smollm2-f16
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "In 1984, 3.14159 times 1,000,000 was\t3141590.\n\n  Two  spaces,\r\nand a tab.",
    "naïve café — “quotes”, 日本語, Ελληνικά, 👩‍👩‍👧 and e\u0301.",
    "def f(x):\n    return x**2  # don't; we'll see",
]
LENGTHS = [2, 7, 40, 100]


def qzo_scores(qzo: str, model: str, lines: list[dict], extra: list[str]) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "score.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        command = [qzo, "eval", model, "--score", str(file), "--json", *extra]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode} from: {' '.join(command)}")
    return json.loads(done.stdout)["sequences"]


@torch.no_grad()
def token_nll(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="what qzo opens")
    parser.add_argument("--reference", help="the Hugging Face directory transformers opens (default: MODEL)")
    parser.add_argument("--qzo", default="target/release/qzo")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="nats (default: 1e-4)")
    parser.add_argument("--qzo-args", default="", metavar="ARGS", help='more for qzo: "--device wgpu"')
    args = parser.parse_args()

    reference = args.reference or args.model
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(reference, **options).eval()
    if args.model.endswith(".gguf"):
        from gguf import GGUFReader
        from smollm2_hf import dequantized, metadata

        reader = GGUFReader(args.model)
        weights = {name: torch.from_numpy(value) for name, value in dequantized(reader, metadata(reader)).items()}
        model.load_state_dict(weights, strict=False)
        model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(reference)

    rng = np.random.Generator(np.random.Philox(0))
    limit = getattr(model.config, "max_position_embeddings", max(LENGTHS))
    drawn = [rng.integers(0, model.config.vocab_size, n).tolist() for n in LENGTHS if n <= limit]
    lines = [{"input_ids": ids} for ids in drawn] + [{"text": text} for text in TEXTS]
    expected_ids = drawn + [tokenizer(text)["input_ids"] for text in TEXTS]

    found = qzo_scores(args.qzo, args.model, lines, shlex.split(args.qzo_args))
    if len(found) != len(lines):
        sys.exit(f"{len(lines)} sequences went in, {len(found)} came out")
    worst, wrong = 0.0, 0
    for line, ids, sequence in zip(lines, expected_ids, found):
        label = json.dumps(line["text"])[:40] if "text" in line else f"{len(ids)} ids"
        expected = token_nll(model, ids)
        got = np.array(sequence["token_nll"], dtype=np.float64)
        if got.shape != expected.shape:
            print(f"{label}: {len(got)} scored tokens, expected {len(expected)}")
            wrong += 1
            continue
        difference = float(np.abs(got - expected).max()) if len(ids) > 1 else 0.0
        # A NaN compares as neither small nor large: it must not pass.
        wrong += not difference <= args.tolerance
        worst = max(worst, difference)
        print(f"{label}: {len(ids)} tokens, mean NLL {expected.mean():.5f}, max |difference| {difference:.3g}")
    print(f"max |difference| {worst:.3g} over {len(lines)} sequences, tolerance {args.tolerance:g}")
    if wrong:
        sys.exit(f"{wrong} of {len(lines)} sequences disagree")


if __name__ == "__main__":
    main()
