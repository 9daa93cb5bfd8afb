"""LoRA over the same 4-bit weights, trained in PyTorch: accuracy that is left in the files that can be served.

The usual way, beside qzo's. SmolLM2-135M-Instruct is quantized by qzo (round to nearest, 4 bits, groups of 64,
asymmetric), its weights are dequantized in PyTorch, and adapters of rank 16 (alpha 32, every linear of the blocks,
no dropout) are trained over them: AdamW, batches of 16, 60 steps, 3 of them warm-up, cosine to 0, gradient norm
clipped to 1, gradient checkpointing, f32. The loss is qzo's. The batches are the rows that `qzo finetune` takes with
the same seed. The learning rate is the best of a grid by accuracy on the dev rows, with a seed of its own. For
every task and seed, accuracy and cross-entropy on all dev rows:

    zero_shot       the quantized model as it is
    adapter         the adapter kept beside the quantized model, by PyTorch
    merged_f32      adapter and dequantized weights in one f32 model
    merged_rtn      that model quantized again by rounding, as the base was
    merged_gptq     that model quantized again by GPTQ, calibrated on the task's training texts with their answers

All but `adapter` are files on disk, measured by `qzo eval`. `merged_f32` is the same function as `adapter`, so
the two compare the programs. Peak memory is the training process's, with PyTorch and its libraries before a model
was there ("runtime") beside it; the base is dense f32, not packed. Seconds are of the wall clock, and of the
processor over all threads, which a busy machine disturbs less.

    python scripts/bench/adapter_peer.py target/release/qzo models/smollm2-f16 \
        --tasks sentiment spam reuters --data OUT --seeds 1 2 3 --json FILE

models/smollm2-f16 is the output of scripts/checks/smollm2_hf.py, OUT that of scripts/checks/other_tasks.py. A run that
is stopped goes on from FILE. With --timings, and --tasks without a name, only seconds per step and memory are
measured, on batches of sentiment rows: adapters, and exact scales (w = exp(theta) * w0 of each group, theta
trained by AdamW), each with and without gradient checkpointing, in f32 and under bf16 autocast:

    python scripts/bench/adapter_peer.py target/release/qzo models/smollm2-f16 --timings --tasks --json FILE

Needs gguf 0.19, numpy 2.4, safetensors 0.8, tokenizers 0.22, torch 2.9 and transformers 4.57 or later.
"""

import argparse
import json
import math
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModelForCausalLM

sys.path.append(str(Path(__file__).resolve().parents[1] / "checks"))
from reference_qzo import philox

RECIPE_DATA = Path(__file__).resolve().parents[2] / "configs" / "data"
SENTIMENT = {"prompt": "{text} It was", "choices": [" terrible", " great"], "max_seq_length": 28}
BITS = ["--bits", "4", "--group-size", "64", "--asymmetric"]
GROUP_SIZE, RANK, ALPHA, BATCH, WARM_UP = 64, 16, 32, 16, 3
EPOCH_STREAM = 2  # src/rng.rs


def memory(key: str) -> int:
    """VmHWM (peak) or VmRSS of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def unpacked(words: np.ndarray) -> np.ndarray:
    """int32 [...] -> codes of 4 bits, the lowest first, [..., 8]."""
    return words.view(np.uint32)[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15


def dequantized(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of a GPTQ directory by name, f32 [out, in]: s * (q - zero), zeros stored as they are (gptq_v2)."""
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert settings["checkpoint_format"] == "gptq_v2" and settings["bits"] == 4, settings
    assert settings["group_size"] == GROUP_SIZE and not settings["desc_act"], settings
    tensors, weights = load_file(folder / "model.safetensors"), {}
    for key in tensors:
        if key.endswith(".qweight"):
            name = key.removesuffix(".qweight")
            codes = unpacked(tensors[key]).transpose(0, 2, 1).reshape(-1, tensors[key].shape[1])  # [in, out]
            zeros = unpacked(tensors[name + ".qzeros"]).reshape(-1, codes.shape[1])  # [groups, out]
            scales = tensors[name + ".scales"].astype(np.float32)
            levels = codes.astype(np.float32) - zeros.astype(np.float32).repeat(GROUP_SIZE, axis=0)
            weight = levels * scales.repeat(GROUP_SIZE, axis=0)
            weights[name + ".weight"] = torch.from_numpy(np.ascontiguousarray(weight.T))
    return weights


class Adapter(nn.Module):
    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear
        self.a = nn.Parameter(torch.empty(RANK, linear.in_features))
        self.b = nn.Parameter(torch.zeros(linear.out_features, RANK))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + F.linear(F.linear(x, self.a), self.b) * (ALPHA / RANK)

    def merged(self) -> torch.Tensor:
        return self.linear.weight + self.b @ self.a * (ALPHA / RANK)


class ExactScales(nn.Module):
    def __init__(self, linear: nn.Linear):
        super().__init__()
        out, inner = linear.weight.shape
        self.weight = linear.weight.data.view(out, inner // GROUP_SIZE, GROUP_SIZE)
        self.theta = nn.Parameter(torch.zeros(out, inner // GROUP_SIZE, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.merged())

    def merged(self) -> torch.Tensor:
        return (self.weight * self.theta.exp()).flatten(1)


def model_with(kind: type[nn.Module], dense: Path, base: Path, seed: int) -> nn.Module:
    """The dequantized model with one module of `kind` in the place of each linear; only these are trained."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    model.requires_grad_(False)
    weights = dequantized(base)
    missing = model.load_state_dict(weights, strict=False).unexpected_keys
    assert not missing and len(weights) == 7 * len(model.model.layers), missing
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(part, name, kind(linear))
    return model


def merged_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A plain model's weights by name, without the head, which is tied to the embedding."""
    weights, trained = {}, {n: m for n, m in model.named_modules() if hasattr(m, "merged")}
    for name, module in trained.items():
        weights[name + ".weight"] = module.merged().detach().contiguous()
    for name, value in model.state_dict().items():
        if not any(name.startswith(t + ".") for t in trained) and not name.startswith("lm_head."):
            weights[name] = value
    return weights


def read_rows(path: Path, task: dict, tokenizer: Tokenizer, longest: float = math.inf) -> list[dict]:
    """Token ids of the prompts, ids of the candidates, and labels. Every candidate is one token."""
    candidates = [tokenizer.encode(choice).ids for choice in task["choices"]]
    assert all(len(ids) == 1 for ids in candidates), "a choice is not one token"
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        ids = tokenizer.encode(task["prompt"].format(**row)).ids
        if len(ids) + 1 <= longest:
            rows.append({"input_ids": ids, "candidates": [c for [c] in candidates], "label": row["label"]})
    return rows


def order(seed: int, epoch: int, n: int) -> list[int]:
    """The rows of an epoch as qzo takes them (src/data/sampling.rs)."""
    low, high, *_ = philox(np.arange(n), epoch & 0xFFFFFFFF, epoch >> 32, EPOCH_STREAM, seed)
    keys = high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)
    return np.argsort(keys, kind="stable").tolist()


def batch_of(rows: list[dict], seed: int, step: int) -> list[dict]:
    places = [divmod(step * BATCH + i, len(rows)) for i in range(BATCH)]
    orders = {epoch: order(seed, epoch, len(rows)) for epoch, _ in places}
    return [rows[orders[epoch][at]] for epoch, at in places]


def losses(model: nn.Module, batch: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over the candidates' log-probabilities, and whether the likeliest is right, [batch] each."""
    lengths = torch.tensor([len(row["input_ids"]) for row in batch])
    ids = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
    for i, row in enumerate(batch):
        ids[i, : lengths[i]] = torch.tensor(row["input_ids"])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    hidden = model.model(ids, attention_mask=mask, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[torch.arange(len(batch)), lengths - 1]).float()
    scores = logits.log_softmax(-1).gather(1, torch.tensor([row["candidates"] for row in batch]))
    labels = torch.tensor([row["label"] for row in batch])
    return F.cross_entropy(scores, labels, reduction="none"), scores.argmax(1) == labels


@torch.no_grad()
def evaluate(model: nn.Module, rows: list[dict]) -> dict:
    model.eval()
    rows = sorted(rows, key=lambda row: len(row["input_ids"]))
    parts = [losses(model, rows[i : i + 32]) for i in range(0, len(rows), 32)]
    nll, right = (torch.cat(column).double().mean().item() for column in zip(*parts))
    return {"n": len(rows), "accuracy": right, "nll": nll}


def train(model: nn.Module, rows: list[dict], seed: int, steps: int, rate: float, bf16: bool = False) -> dict:
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    seconds, cpu, found = [], [], []
    for step in range(steps):
        start, busy = time.perf_counter(), time.process_time()
        cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - WARM_UP) / max(1, steps - WARM_UP)))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / WARM_UP) * cosine
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = losses(model, batch_of(rows, seed, step))[0].mean()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
        found.append(loss.item())
    result = {"step_seconds": median(seconds), "step_seconds_min": min(seconds), "step_cpu_seconds": median(cpu)}
    result |= {"peak_bytes": memory("VmHWM"), "trained": sum(p.numel() for p in trained)}
    return result | {"train_loss": float(np.mean(found[-10:]))}


def worker(job: dict) -> dict:
    """One training run in a process of its own: {"kind", "task", "train", "dev", "seed", "steps", "rate", ...}."""
    torch.set_num_threads(job["threads"])
    runtime = memory("VmRSS")
    tokenizer = Tokenizer.from_file(str(job["dense"] / "tokenizer.json"))
    kind = {"adapter": Adapter, "scales": ExactScales}[job["kind"]]
    model = model_with(kind, job["dense"], job["base"], job["seed"])
    if job["checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    rows = read_rows(job["train"], job["task"], tokenizer, job["task"]["max_seq_length"])
    result = {"rows": len(rows), "rate": job["rate"], "runtime_bytes": runtime}
    result |= train(model, rows, job["seed"], job["steps"], job["rate"], job.get("bf16", False))
    if job.get("dev"):
        result["dev"] = evaluate(model, read_rows(job["dev"], job["task"], tokenizer))
    if job.get("merged"):
        job["merged"].mkdir()
        for path in job["dense"].iterdir():
            if path.suffix == ".json":
                shutil.copy(path, job["merged"])
        settings = json.loads((job["merged"] / "config.json").read_text()) | {"torch_dtype": "float32"}
        (job["merged"] / "config.json").write_text(json.dumps(settings, indent=2))
        save_file(merged_weights(model), job["merged"] / "model.safetensors", metadata={"format": "pt"})
    return result


def in_own_process(job: dict) -> dict:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(worker, job).result()


def qzo(args: argparse.Namespace, *words) -> str:
    return subprocess.run([args.qzo, *words, "--device", "cpu", "--quiet"], check=True, stdout=subprocess.PIPE).stdout


def qzo_eval(args: argparse.Namespace, model: Path, task: dict, rows: Path) -> dict:
    choices = [word for choice in task["choices"] for word in ("--choice", choice)]
    found = json.loads(qzo(args, "eval", model, "--data", rows, "--prompt", task["prompt"], *choices, "--json"))
    return {key: found[key] for key in ("n", "accuracy", "nll")}


def task_files(args: argparse.Namespace, name: str) -> tuple[dict, Path, Path]:
    folder = RECIPE_DATA if name == "sentiment" else args.data
    task = SENTIMENT if name == "sentiment" else json.loads((folder / "tasks.json").read_text())[name]
    return task, folder / f"{name}_train.jsonl", folder / f"{name}_dev.jsonl"


def calibration(task: dict, rows: Path, out: Path) -> Path:
    """The training rows as text: prompt and right answer."""
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    texts = [task["prompt"].format(**row) + task["choices"][row["label"]] + "\n\n" for row in lines]
    out.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return out


def one_seed(args: argparse.Namespace, job: dict, folder: Path) -> dict:
    """Trains with the job's seed, merges, quantizes again, and measures each file."""
    task, dev, merged = job["task"], job["dev"], folder / "merged"
    result = in_own_process(job | {"merged": merged})
    result["adapter"] = result.pop("dev")
    result["merged_f32"] = qzo_eval(args, merged, task, dev)
    text = calibration(task, job["train"], folder / "calibration.jsonl")
    ways = {"merged_rtn": []}
    if job["seed"] in args.seeds[: args.gptq_seeds]:
        ways["merged_gptq"] = ["--method", "gptq", "--calibration", text]
    for name, more in ways.items():
        out = folder / name
        qzo(args, "quantize", merged, *BITS, *more, "-o", out)
        result[name] = qzo_eval(args, out, task, dev)
        shutil.rmtree(out)
    shutil.rmtree(merged)
    return result


def one_task(args: argparse.Namespace, name: str, base: Path, folder: Path, result: dict, keep) -> None:
    """Fills a task's part of the result with what it does not have yet, and calls `keep` after each run."""
    task, train_rows, dev = task_files(args, name)
    result.setdefault("task", task)
    if "zero_shot" not in result:
        result["zero_shot"] = qzo_eval(args, base, task, dev)
    grid, seeds = result.setdefault("grid", {}), result.setdefault("seeds", {})
    say(f"{name}: zero-shot {result['zero_shot']}")
    job = {"kind": "adapter", "task": task, "train": train_rows, "dev": dev, "dense": args.dense, "base": base}
    job |= {"steps": args.steps, "threads": args.threads, "checkpointing": not args.no_checkpointing}
    job["bf16"] = args.bf16
    for rate in (rate for rate in args.rates if len(args.rates) > 1 and str(rate) not in grid):
        grid[str(rate)] = in_own_process(job | {"rate": rate, "seed": args.grid_seed})
        keep()
        say(f"{name}: rate {rate}: {grid[str(rate)]}")
    best = max(grid, key=lambda one: (grid[one]["dev"]["accuracy"], -grid[one]["dev"]["nll"]), default=args.rates[0])
    rate = float(best)
    for seed in (seed for seed in args.seeds if str(seed) not in seeds):
        seeds[str(seed)] = found = one_seed(args, job | {"rate": rate, "seed": seed}, folder)
        keep()
        ways = ("adapter", "merged_f32", "merged_rtn", "merged_gptq")
        figures = (f"{way} {found[way]['accuracy']:.3f} ({found[way]['nll']:.3f})" for way in ways if way in found)
        say(f"{name}: seed {seed}, rate {rate}: {', '.join(figures)}")


def timings(args: argparse.Namespace, base: Path) -> list[dict]:
    task, train_rows, _ = task_files(args, "sentiment")
    job = {"task": task, "train": train_rows, "dense": args.dense, "base": base, "rate": 1e-3, "seed": 0}
    job |= {"steps": args.timing_steps, "threads": args.threads}
    found = []
    for kind in ("adapter", "scales"):
        for checkpointing in (True, False):
            for bf16 in (False, True):
                setting = {"kind": kind, "checkpointing": checkpointing, "bf16": bf16}
                found.append(setting | in_own_process(job | setting))
                say(json.dumps(found[-1]))
    return found


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qzo", type=lambda path: Path(path).resolve())
    parser.add_argument("dense", type=Path, help="the model's float16 Hugging Face directory")
    parser.add_argument("--tasks", nargs="*", default=["sentiment"])
    parser.add_argument("--data", type=Path, help="what other_tasks.py wrote, for tasks other than sentiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3], help="one needs no grid")
    parser.add_argument("--grid-seed", type=int, default=100)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gptq-seeds", type=int, metavar="N", help="use GPTQ with the first N seeds only")
    parser.add_argument("--no-checkpointing", action="store_true", help="the same results in less time and more memory")
    parser.add_argument("--bf16", action="store_true", help="train under bf16 autocast")
    parser.add_argument("--timings", action="store_true", help="measure seconds per step, too")
    parser.add_argument("--timing-steps", type=int, default=8)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the result there, and go on from it")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of the processes that train: no spinning on a busy machine
    result = {"torch": torch.__version__, "threads": args.threads, "steps": args.steps, "tasks": {}}
    if args.json and args.json.exists():
        result |= json.loads(args.json.read_text())

    def keep() -> None:
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        qzo(args, "quantize", args.dense, *BITS, "-o", base)
        if args.timings:
            result["timings"] = timings(args, base)
            keep()
        for name in args.tasks:
            one_task(args, name, base, Path(folder), result["tasks"].setdefault(name, {}), keep)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
