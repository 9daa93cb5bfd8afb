"""Loads what `qzo finetune` wrote in the programs that people serve it with, and compares.

For each kind of output: quantize MODEL briefly, tune it for three steps, open the tuned directory or file
unchanged in the real client, and compare with qzo
  forward  −log p of every token of held-out texts, as the client computes it;
  weights  the same with the client's own dequantizer and f32 products, which leaves out the client's
           arithmetic and so tells a wrong file from a coarse kernel;
  argmax   how many tokens of qzo's greedy answers to three chat prompts are the client's most likely ones
           too: with its arithmetic, then with its weights in f32. One may lag by twice the tolerance.
`moved` is how far the tuning moved those −log p: a client that missed the new scales would be off by as
much. Prints a table in Markdown; exits 1 where a client disagrees or qzo fails. A client that is not
installed, or a format that this qzo does not write, is "not checked".

Tolerances, in nats, for the largest difference of one token's −log p:
  weights  2e-3 for all: sums in f32, in another order.
  gptq     2e-3. transformers with GPTQModel's `torch` kernel. On a CPU without `backend="torch"` GPTQModel
           takes TorchFusedQuantLinear, which puts 0 in place of every zero point (5.6.12 to 7.7.0):
           asymmetric models come out wrong there, from any quantizer.
  nf4      2e-3, with bitsandbytes' portable CPU kernel in f32. As installed it computes in the file's float16,
           or, where the CPU has AVX512-BF16, in bfloat16 whatever the file says: single tokens were then up
           to 0.8 off, on average 0.01.
  aqlm     2e-3. AQLM's CPU kernel for 8-bit codes (`numba_gemm_lut`) adds to shared sums from several
           threads without a lock, so NUMBA_NUM_THREADS is 1 here; with more, it is wrong at random.
  ct, awq  2e-3 and 0.05. compressed-tensors runs in f32; GPTQModel's AWQ kernel in float16.
  mlx      2e-3. mlx-lm on the CPU, f32 scales. The start is what `mlx_lm.convert` made.
  gguf     0.6. llama.cpp rounds the inputs of every product to 8 bits per 32. The mean, which such noise
           leaves alone, has to be within a tenth of it.

Checked with: torch 2.9.1, transformers 4.57.6, accelerate 1.15.0, bitsandbytes 0.50.2, optimum 1.27.0,
gptqmodel 5.6.12 (BUILD_CUDA_EXT=0 pip install --no-build-isolation; 5.8 and later need transformers 5),
torchao 0.15.0, aqlm 1.1.7 with numba 0.68.1, compressed-tensors 0.15.0.1 (0.12.2 cannot unpack zero
points), llama-cpp-python 0.3.36, gguf 0.19.0, mlx 0.32.4 (mlx[cpu]), mlx-lm 0.32.2 (--no-deps), and kernels
0.11.7, datasets 4.0.0 and scipy 1.16.3, since newer ones need huggingface_hub 1. AutoAWQ 0.2.9 does not
import with transformers 4.52 or later: GPTQModel reads AWQ here.

    python scripts/checks/clients.py models/smollm2-f16 --gguf models/SmolLM2-135M-Instruct.Q4_1.gguf
    python scripts/checks/clients.py models/smollm2-f16 --only gptq-4,nf4
    python -m mlx_lm convert --hf-path models/smollm2-f16 --mlx-path models/smollm2-mlx -q
    python scripts/checks/clients.py models/smollm2-f16 --only mlx --start mlx=models/smollm2-mlx
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Callable

os.environ["NUMBA_NUM_THREADS"] = "1"  # read when numba is imported; see the docstring
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTQConfig

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    "The committee met twice in March and once more in April before it agreed on a plan for the old bridge.",
    "Water boils at a lower temperature on a mountain because the air presses less on its surface.",
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total / len(values)",
    "naïve café — “quotes”, 日本語, 3.14159 × 1,000,000\n\n  and two  spaces.",
]
QUESTIONS = ["What is the capital of France?", "Name three colours.", "Why is the sky blue?"]
NEW_TOKENS = 24
WEIGHTS_TOLERANCE = 2e-3


@dataclass
class Client:
    """A model opened in a client. Both functions give logits [tokens, vocabulary] for token ids."""

    forward: Callable[[list[int]], torch.Tensor]
    # Opens it once more (the first pass of a client may repack its codes) and makes it dense, with the
    # client's own dequantizer.
    dense: Callable[[], Callable[[list[int]], torch.Tensor]] | None


@dataclass
class Case:
    open: Callable[[Path, str], Client]
    packages: list[str]  # distributions that have to be installed
    tolerance: float  # of `forward`
    quantize: list[str] | None  # arguments of `qzo quantize`; None: only with --start
    calibrated: bool = False
    largest_mean: float = 1.0  # of the mean of the signed differences, as a share of the tolerance


def forward_of(model: torch.nn.Module) -> Callable[[list[int]], torch.Tensor]:
    return lambda ids: model(torch.tensor([ids])).logits[0].double()


def made_dense(model: torch.nn.Module, kind: type, weight: Callable[[torch.nn.Module], torch.Tensor]):
    """Every module of `kind` in `model` becomes a plain linear of `weight(module)`, [out, in]."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, kind)]
    if not found:
        raise RuntimeError(f"no {kind.__name__} in the loaded model: it was not opened as quantized")
    for name, module in found:
        value = weight(module).detach().float()
        linear = torch.nn.Linear(value.shape[1], value.shape[0], bias=module.bias is not None)
        linear.weight.data = value
        if module.bias is not None:
            linear.bias.data = module.bias.detach().float()
        model.set_submodule(name, linear)
    # transformers and GPTQModel forbid `.float()` on what they opened as quantized, which it is no more.
    return forward_of(torch.nn.Module.float(model))


def transformers_client(path: Path, kind: type, weight: Callable, prepare=lambda model: None, **options) -> Client:
    def opened() -> torch.nn.Module:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options).eval()
        prepare(model)
        return model

    return Client(forward_of(opened()), lambda: made_dense(opened(), kind, weight))


def open_gptq(path: Path, _: str) -> Client:
    from gptqmodel.nn_modules.qlinear.torch import TorchQuantLinear

    bits = json.loads((path / "config.json").read_text())["quantization_config"]["bits"]
    kernel = GPTQConfig(bits=bits, backend="torch")
    return transformers_client(
        path, TorchQuantLinear, lambda module: module.dequantize_weight().T, quantization_config=kernel
    )


def open_bitsandbytes(path: Path, _: str) -> Client:
    import bitsandbytes as bnb

    def weight(module: torch.nn.Module) -> torch.Tensor:
        return bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state).float()

    def in_f32(model: torch.nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, bnb.nn.Linear4bit):
                module.support_avx512bf16_for_cpu = False
                module.compute_dtype, module.compute_type_is_set = torch.float32, True
                module.weight.quant_state.dtype = torch.float32

    return transformers_client(path, bnb.nn.Linear4bit, weight, prepare=in_f32)


def open_aqlm(path: Path, _: str) -> Client:
    import aqlm
    from aqlm.utils import _dequantize_weight, unpack_int_data

    def weight(module: torch.nn.Module) -> torch.Tensor:
        codes = unpack_int_data(module.codes, module.nbits_per_codebook)
        return _dequantize_weight(codes, module.codebooks, module.scales)

    return transformers_client(path, aqlm.QuantizedLinear, weight)


def open_compressed_tensors(path: Path, _: str) -> Client:
    """Newer versions unpack while loading, older ones on the first pass: either way no kernel of their own."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return Client(forward_of(model), None)


def open_awq(path: Path, _: str) -> Client:
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchQuantLinear
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    def weight(module: torch.nn.Module) -> torch.Tensor:
        return dequantize_gemm(module.qweight, module.qzeros, module.scales.float(), module.bits, module.group_size).T

    def opened() -> torch.nn.Module:
        return GPTQModel.load(str(path), backend=BACKEND.TORCH_AWQ, device="cpu", dtype=torch.float16).model.eval()

    return Client(forward_of(opened()), lambda: made_dense(opened(), AwqTorchQuantLinear, weight))


def open_gguf(path: Path, reference: str) -> Client:
    from gguf import GGUFReader
    from llama_cpp import Llama

    from smollm2_hf import dequantized, metadata as gguf_metadata

    llama = Llama(str(path), n_ctx=512, n_threads=1, logits_all=True, verbose=False)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    for text in TEXTS:
        found = llama.tokenize(text.encode(), add_bos=False, special=True)
        if found != tokenizer(text)["input_ids"]:
            raise RuntimeError(f"llama.cpp reads {text[:20]!r} as other tokens than the tokenizer of {reference}")

    def forward(ids: list[int]) -> torch.Tensor:
        llama.reset()
        llama.eval(ids)
        return torch.from_numpy(llama.scores[: len(ids)].copy()).double()

    def dense() -> Callable[[list[int]], torch.Tensor]:
        model = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32).eval()
        reader = GGUFReader(path)
        values = dequantized(reader, gguf_metadata(reader))
        model.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()}, strict=False)
        model.tie_weights()
        return forward_of(model)

    return Client(forward, dense)


def open_mlx(path: Path, _: str) -> Client:
    """mlx-lm, its codes multiplied by MLX; the scales in f32, so that its sums are."""
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model, load_model

    def forward_of(prepare: Callable) -> Callable[[list[int]], torch.Tensor]:
        model, _ = load_model(path)
        model.set_dtype(mx.float32)
        model = prepare(model)
        return lambda ids: torch.tensor(model(mx.array([ids]))[0].tolist(), dtype=torch.float64)

    return Client(forward_of(lambda model: model), lambda: forward_of(dequantize_model))


HF = ["accelerate"]
GPTQ = [*HF, "optimum", "gptqmodel"]
AQLM = ["--method", "vector", "--group-size", "-1", "--format", "aqlm"]
CT = ["--format", "compressed-tensors"]
CASES = {
    "gptq-4": Case(open_gptq, GPTQ, 2e-3, ["--bits", "4", "--group-size", "64", "--asymmetric"]),
    "gptq-4-act-order": Case(
        open_gptq, GPTQ, 2e-3, ["--bits", "4", "--group-size", "64", "--method", "gptq", "--act-order"], True
    ),
    "gptq-3": Case(open_gptq, GPTQ, 2e-3, ["--bits", "3", "--group-size", "32", "--asymmetric"]),
    "gptq-8": Case(open_gptq, GPTQ, 2e-3, ["--bits", "8", "--group-size", "64"]),
    "nf4": Case(open_bitsandbytes, [*HF, "bitsandbytes"], 2e-3, ["--method", "nf4"]),
    "aqlm-2": Case(open_aqlm, [*HF, "aqlm", "numba"], 2e-3, [*AQLM, "--bits", "2"], True),
    "aqlm-3": Case(open_aqlm, [*HF, "aqlm", "numba"], 2e-3, [*AQLM, "--bits", "3"], True),
    "ct-4": Case(
        open_compressed_tensors, [*HF, "compressed-tensors"], 2e-3, [*CT, "--bits", "4", "--group-size", "64"]
    ),
    "ct-4-asymmetric": Case(
        open_compressed_tensors,
        [*HF, "compressed-tensors"],
        2e-3,
        [*CT, "--bits", "4", "--group-size", "64", "--asymmetric"],
    ),
    "ct-8": Case(
        open_compressed_tensors, [*HF, "compressed-tensors"], 2e-3, [*CT, "--bits", "8", "--group-size", "-1"]
    ),
    "awq": Case(
        open_awq, GPTQ, 0.05, ["--format", "awq", "--bits", "4", "--group-size", "64", "--asymmetric"]
    ),
    "mlx": Case(open_mlx, ["mlx", "mlx-lm"], 2e-3, None),
    "gguf": Case(open_gguf, ["llama-cpp-python", "gguf"], 0.6, None, largest_mean=0.1),
}


def run(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode} from {' '.join(command)}: {done.stderr.strip()[-300:]}")
    return done.stdout


class Qzo:
    def __init__(self, binary: str, folder: Path):
        self.binary, self.folder = binary, folder
        self.formats = run([binary, "quantize", "--help"])
        rows = (ROOT / "configs/data/sentiment_train.jsonl").read_text().splitlines()
        (folder / "rows.jsonl").write_text("\n".join(rows[:32]) + "\n")
        (folder / "calibration.txt").write_text("\n".join(json.loads(row)["text"] for row in rows))
        (folder / "score.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def writes(self, arguments: list[str]) -> bool:
        return "--format" not in arguments or f"- {arguments[arguments.index('--format') + 1]}:" in self.formats

    def quantize(self, model: str, name: str, case: Case) -> str:
        out = str(self.folder / name)
        extra = []
        if case.calibrated:
            extra = ["--calibration", str(self.folder / "calibration.txt")]
            extra += ["--calibration-samples", "2", "--calibration-length", "128"]
        run([self.binary, "quantize", model, *case.quantize, *extra, "-o", out, "--device", "cpu", "--quiet"])
        return out

    def tune(self, model: str, name: str) -> Path:
        out, rows = self.folder / f"{name}-run", self.folder / "rows.jsonl"
        command = [self.binary, "finetune", "--config", str(ROOT / "configs/smollm2-sentiment-zo.toml")]
        command += ["--model", model, "--data", str(rows), "-o", str(out), "--device", "cpu", "--quiet"]
        settings = [f"data.dev={rows}", "train.max_steps=3", "train.eval_steps=0", "train.learning_rate=0.02"]
        run(command + [argument for setting in settings for argument in ("--set", setting)])
        final = out / "final"
        files = list(final.glob("*.gguf"))
        return files[0] if files else final

    def nll(self, model: str) -> list[torch.Tensor]:
        scores = self.folder / "score.jsonl"
        out = run([self.binary, "eval", model, "--score", str(scores), "--json", "--device", "cpu", "--quiet"])
        return [torch.tensor(s["token_nll"], dtype=torch.float64) for s in json.loads(out)["sequences"]]

    def answer(self, model: str, question: str) -> dict:
        command = [self.binary, "generate", model, "--chat", "--prompt", question, "--device", "cpu", "--json"]
        return json.loads(run([*command, "--max-new-tokens", str(NEW_TOKENS), "--quiet"]))


def token_nll(forward: Callable, ids: list[int]) -> torch.Tensor:
    logp = forward(ids).log_softmax(-1)
    return -logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]


def agreement(forward: Callable, tokenizer, answers: list[dict], slack: float) -> tuple[int, int, int]:
    """Tokens of qzo's answers: all, those that are the client's argmax, and those further than `slack` below."""
    total = same = wrong = 0
    for question, answer in zip(QUESTIONS, answers):
        turn = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True)
        if len(prompt) != answer["prompt_tokens"]:
            raise RuntimeError(f"{len(prompt)} prompt tokens, qzo has {answer['prompt_tokens']}")
        logits = forward(prompt + answer["tokens"])[len(prompt) - 1 : -1]
        behind = logits.max(-1).values - logits[torch.arange(len(logits)), torch.tensor(answer["tokens"])]
        total += len(behind)
        same += int((behind == 0).sum())
        wrong += int((~(behind <= slack)).sum())  # a NaN is wrong
    return total, same, wrong


def continued(forward: Callable, tokenizer, question: str) -> str:
    """The client's own greedy answer."""
    turn = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True)
    start = len(ids)
    while len(ids) < start + NEW_TOKENS // 2:
        token = int(forward(ids)[-1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:])


@torch.no_grad()
def check(qzo: Qzo, name: str, case: Case, start: str, reference: str) -> tuple[bool, list[str]]:
    tuned = qzo.tune(start, name)
    before, expected = qzo.nll(start), qzo.nll(str(tuned))
    answers = [qzo.answer(str(tuned), question) for question in QUESTIONS]
    moved = (torch.cat(expected) - torch.cat(before)).abs().mean().item()
    tokenizer = AutoTokenizer.from_pretrained(tuned if tuned.is_dir() else reference)
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]

    client = case.open(tuned, reference)
    difference = torch.cat([token_nll(client.forward, i) for i in ids]) - torch.cat(expected)
    largest, mean = difference.abs().max().item(), difference.mean().item()
    total, same, wrong = agreement(client.forward, tokenizer, answers, 2 * case.tolerance)
    said = continued(client.forward, tokenizer, QUESTIONS[0])
    # `not <=`: a NaN must not pass.
    fine = largest <= case.tolerance and abs(mean) <= case.largest_mean * case.tolerance and wrong == 0
    most_likely, weights = f"{same}/{total}", "—"
    if client.dense:
        forward = client.dense()
        exact = (torch.cat([token_nll(forward, i) for i in ids]) - torch.cat(expected)).abs().max().item()
        total, same, wrong = agreement(forward, tokenizer, answers, 2 * WEIGHTS_TOLERANCE)
        fine = fine and exact <= WEIGHTS_TOLERANCE and wrong == 0
        most_likely, weights = f"{most_likely}, {same}/{total}", f"{exact:.1e}"
    row = [f"{moved:.2f}", f"{largest:.1e} ≤ {case.tolerance:g}", f"{mean:+.1e}", weights, most_likely]
    return fine, [*row, json.dumps(said, ensure_ascii=False)]


def versions(packages: list[str]) -> tuple[str, list[str]]:
    """What is installed of them, and what is missing."""
    found, missing = ["transformers " + metadata.version("transformers")], []
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            missing.append(package)
    return ", ".join(found), missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Hugging Face directory, not quantized")
    parser.add_argument("--gguf", metavar="FILE", help="the same model as a GGUF file: the start of `gguf`")
    parser.add_argument("--start", action="append", default=[], metavar="CASE=PATH", help="a checkpoint to tune")
    parser.add_argument("--only", default=",".join(CASES), metavar="CASES", help=f"of {', '.join(CASES)}")
    parser.add_argument("--qzo", default=str(ROOT / "target/release/qzo"))
    args = parser.parse_args()
    starts = dict(start.split("=", 1) for start in args.start)
    if args.gguf:
        starts["gguf"] = args.gguf
    torch.set_num_threads(1)

    rows, failed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        qzo = Qzo(args.qzo, Path(folder))
        for name in args.only.split(","):
            case = CASES[name]
            installed, missing = versions(case.packages)
            reason = f"not installed: {', '.join(missing)}" if missing else ""
            if name not in starts and case.quantize is None:
                reason = reason or f"no checkpoint given (--start {name}=PATH)"
            elif name not in starts and not qzo.writes(case.quantize):
                reason = reason or "this qzo does not write the format"
            if reason:
                rows.append([name, installed, f"not checked: {reason}", *["—"] * 6])
                continue
            try:
                start = starts.get(name) or qzo.quantize(args.model, name, case)
                fine, cells = check(qzo, name, case, start, args.model)
            except Exception as error:  # one client's failure must not hide the others' results
                fine, cells = None, ["—"] * 5 + [f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}"]
            failed += not fine
            result = {True: "agrees", False: "DISAGREES", None: "FAILED"}[fine]
            rows.append([name, installed, result, *cells])
            print("|", " | ".join(rows[-1]), "|", file=sys.stderr, flush=True)
            gc.collect()

    heads = ["output", "client", "result", "moved", "forward", "mean", "weights", "argmax", "answer"]
    print("|", " | ".join(heads), "|\n|" + "---|" * len(heads))
    for row in rows:
        print("|", " | ".join(cell.replace("|", "\\|") for cell in row), "|")
    checked = sum(row[2] in ("agrees", "DISAGREES") for row in rows)
    print(f"\n{checked} of {len(rows)} checked, {failed} disagree or failed")
    if failed or not checked:
        sys.exit(1)


if __name__ == "__main__":
    main()
