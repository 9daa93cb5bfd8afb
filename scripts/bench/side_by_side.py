"""qzo beside PyTorch and llama.cpp on this CPU: two forward passes, plus and minus, over the same tokens.

SmolLM2-135M-Instruct and one batch of the recipe in configs/smollm2-sentiment-zo.toml: 16 texts, packed one
after the other without padding by every engine. Engines take turns, each time in a process of its own, all
on the same cores. What an engine does in a step:

    qzo                both passes through the packed codes, noise and update of the scales included
    pytorch plain      two passes of dense weights, nothing perturbed: a lower bound
    pytorch qzo        a step of the same method: scales perturbed in place from a seed, every weight rebuilt
                       from its codes before its product, scales restored and moved
    llama.cpp          two prompt passes of the packed weights, nothing perturbed: a lower bound; Q4_0 is the
                       4-bit format its kernels are fastest in, made here from the file

    python scripts/bench/side_by_side.py target/release/qzo models/SmolLM2-135M-Instruct.Q4_1.gguf --json FILE

Seconds are the least and the median over all steps of all turns. A turn counts where other programs took
less than a tenth of the cores' time meanwhile; a disturbed one is tried again ("disturbed" in the result says
where only such turns were had: threads that wait for each other by spinning, as PyTorch's and llama.cpp's
do, then suffer more than qzo's). CPU seconds are what all threads of an engine were given in a step: with
--threads 1, where none waits for another, they compare engines on a busy machine too. Peak memory is the
process's: of qzo's from its start, of the peers' while they step, with what Python and its libraries took
before a model was there ("runtime") beside it. Each engine's loss over the batch shows that it does the
same work.

Needs what scripts/checks/reference_qzo.py needs, and llama-cpp-python 0.3.x (left out, with a line, where absent).
"""

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from side_by_side_engines import silent_log

sys.path.append(str(Path(__file__).resolve().parents[1] / "checks"))

RECIPE = Path(__file__).parents[2] / "configs" / "smollm2-sentiment-zo.toml"
DISTURBED = 0.1


def as_q4_0(gguf: Path, folder: Path) -> Path:
    import llama_cpp

    llama_cpp.llama_log_set(silent_log(), ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, True
    path = folder / "q4_0.gguf"
    assert llama_cpp.llama_model_quantize(str(gguf).encode(), str(path).encode(), params) == 0
    return path


def one_batch(gguf: Path, folder: Path) -> tuple[list[dict], Path]:
    """The batch for PyTorch and llama.cpp, and the same rows as a file for qzo."""
    from gguf import GGUFReader

    import reference_qzo
    import smollm2_hf
    from fidelity import batches

    tokenizer = smollm2_hf.tokenizer(smollm2_hf.metadata(GGUFReader(gguf)))
    candidates = [tokenizer.token_to_id(text.replace(" ", "Ġ")) for text in reference_qzo.CANDIDATES]
    [lines] = batches(tokenizer, 1)
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [json.loads(line) for line in lines]
    ids = [tokenizer.encode(reference_qzo.PROMPT.format(text=row["text"])).ids for row in rows]
    return [{"input_ids": i, "candidates": candidates, "label": row["label"]} for i, row in zip(ids, rows)], path


def qzo(args: argparse.Namespace, dtype: str, rows: Path, tokens: int) -> dict:
    """Two runs, so that the cores' time of loading and of the first step drops out of their difference."""
    command = [args.qzo, "bench", "--config", RECIPE, "--model", args.gguf, "--data", rows, "--json", "--quiet"]
    command += ["--device", "cpu", "--dtype", dtype, "--steps"]
    cpu = [busy_seconds()[1]]
    for steps in (1, 1 + args.steps):
        found = json.loads(subprocess.run([*command, str(steps)], check=True, capture_output=True).stdout)
        cpu.append(busy_seconds()[1])
    assert found["tokens_per_batch"] == tokens, f"qzo took {found['tokens_per_batch']} tokens, not {tokens}"
    result = {"seconds": [found["step_seconds_min"], found["step_seconds"]], "runtime_bytes": 0}
    cpu_seconds = [((cpu[2] - cpu[1]) - (cpu[1] - cpu[0])) / args.steps]
    return result | {"cpu_seconds": cpu_seconds, "peak_bytes": found["peak_bytes"]}


def qzo_loss(args: argparse.Namespace, dtype: str, rows: Path) -> float:
    command = [args.qzo, "eval", args.gguf, "--data", rows, "--prompt", "{text} It was", "--choice", " terrible"]
    command += ["--choice", " great", "--device", "cpu", "--dtype", dtype, "--json", "--quiet"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["nll"]


def turn(args: argparse.Namespace, worker: str, gguf: Path, batch_file: Path) -> dict:
    engines = Path(__file__).with_name("side_by_side_engines.py")
    command = [sys.executable, engines, worker, gguf, batch_file, "--steps", str(args.steps)]
    command += ["--threads", str(args.threads)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def busy_seconds() -> tuple[float, float]:
    """What all cores have worked since the start of the system, and what the ended children of this process."""
    user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text().split("\n")[0].split()[1:8]
    ticks = sum(map(int, (user, nice, system, *interrupts)))
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ticks / os.sysconf("SC_CLK_TCK"), children.ru_utime + children.ru_stime


def undisturbed(run, deadline: float) -> tuple[dict, float]:
    """Runs until other programs took less than DISTURBED meanwhile; what was had with least of it by then."""
    tries = []
    while True:
        start, before = time.perf_counter(), busy_seconds()
        result = run()
        all_cores, own = (after - then for after, then in zip(busy_seconds(), before))
        tries.append((max(0.0, all_cores - own) / (time.perf_counter() - start) / os.cpu_count(), result))
        if tries[-1][0] < DISTURBED or time.perf_counter() > deadline:
            others, result = min(tries, key=lambda one: one[0])
            return result, others


def compare(args: argparse.Namespace, folder: Path) -> dict:
    batch, rows = one_batch(args.gguf, folder)
    tokens = sum(len(row["input_ids"]) for row in batch)
    batch_file = folder / "batch.json"
    batch_file.write_text(json.dumps(batch))
    engines = {}
    for dtype in ("f32", "bf16"):
        engines[f"qzo {dtype}"] = lambda dtype=dtype: qzo(args, dtype, rows, tokens)
    for kind in ("plain", "qzo"):
        for dtype in ("float32", "bfloat16"):
            worker = f"pytorch-{kind}-{dtype}"
            engines[worker.replace("-", " ")] = lambda worker=worker: turn(args, worker, args.gguf, batch_file)
    try:
        files = {"Q4_1": args.gguf, "Q4_0": as_q4_0(args.gguf, folder)}
        for name, file in files.items():
            engines[f"llama.cpp {name}"] = lambda file=file: turn(args, "llama.cpp", file, batch_file)
    except ImportError:
        print("no llama-cpp-python here: llama.cpp is left out", file=sys.stderr)

    found = {name: {"seconds": [], "cpu_seconds": [], "peak_bytes": 0, "disturbed": 1.0} for name in engines}
    for dtype in ("f32", "bf16"):
        found[f"qzo {dtype}"]["loss"] = qzo_loss(args, dtype, rows)
    for number in range(args.turns):
        for name, run in engines.items():
            (one, others), entry = undisturbed(run, time.perf_counter() + args.patience), found[name]
            if others < max(DISTURBED, entry["disturbed"]):  # a better turn takes the place of disturbed ones
                entry["seconds"] = one["seconds"] + (entry["seconds"] if entry["disturbed"] < DISTURBED else [])
                entry["disturbed"] = min(others, entry["disturbed"])
            entry["peak_bytes"] = max(entry["peak_bytes"], one["peak_bytes"])
            entry["cpu_seconds"] += one["cpu_seconds"]
            entry["runtime_bytes"] = one["runtime_bytes"]
            entry.setdefault("loss", one.get("loss"))
            print(f"turn {number + 1}: {name} {min(one['seconds']):.3f} s, others {others:.0%}", file=sys.stderr)
    for entry in found.values():
        entry["step_seconds_min"], entry["step_seconds_median"] = min(entry["seconds"]), median(entry["seconds"])
        entry["tokens_per_second"] = 2 * tokens / entry["step_seconds_min"]
        entry["step_cpu_seconds_median"] = median(entry["cpu_seconds"])
        del entry["seconds"], entry["cpu_seconds"]
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    setting = {"cpu": cpu.split(":")[-1].strip(), "threads": args.threads, "tokens": tokens, "sequences": len(batch)}
    return setting | {"turns": args.turns, "steps": args.steps, "engines": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qzo", type=Path)
    parser.add_argument("gguf", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5, help="times that every engine has its turn")
    parser.add_argument("--steps", type=int, default=5, help="steps of a turn")
    parser.add_argument("--patience", type=float, default=60, help="seconds to try again a disturbed turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    with tempfile.TemporaryDirectory() as folder:
        result = compare(args, Path(folder))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['tokens']} tokens in {result['sequences']} texts, {args.threads} threads, {result['cpu']}")
    print(f"{'engine':24} {'s/step min':>10} {'median':>8} {'tokens/s':>9} {'CPU s':>7} {'peak MB':>8} {'runtime':>8} {'loss':>8} disturbed")
    for name, row in result["engines"].items():
        seconds = f"{row['step_seconds_min']:10.3f} {row['step_seconds_median']:8.3f} {row['tokens_per_second']:9.0f}"
        seconds += f" {row['step_cpu_seconds_median']:7.3f}"
        memory = f"{row['peak_bytes'] / 1e6:8.0f} {row['runtime_bytes'] / 1e6:8.0f}"
        print(f"{name:24} {seconds} {memory} {row['loss']:8.4f} {row['disturbed']:8.0%}")


if __name__ == "__main__":
    main()
