#!/usr/bin/env bash
# Correctness and speed on a machine with a card: kernels and models against their references, a run and
# its replay on two devices, the packed product, and the steps of a real model where one is given.
#
#   bash scripts/gpu_suite.sh QZO TESTS OUT [MODEL.gguf]
#
# QZO     the built program (target/release/qzo)
# TESTS   the library's test binary, from: cargo test --release --lib --no-run
# OUT     folder for the results: one .json or .log per part, and summary.txt
#
# The machine needs neither cargo nor a network: a CUDA driver, NVRTC and the CUDA headers (CUDA_PATH,
# or /usr/local/cuda). DEVICE=wgpu rehearses all of it on another backend.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 3 ] || { sed -n 2,14p "$0"; exit 2; }
qzo=$1 tests=$2 out=$3 model=${4:-}
device=${DEVICE:-cuda}
backend=${device%%:*}
mkdir -p "$out"
summary=$out/summary.txt
: >"$summary"
failed=0

# part NAME COMMAND...: runs it, keeps what it prints, notes how it ended.
part() {
    local name=$1 start=$SECONDS status
    shift
    "$@" >"$out/$name.log" 2>&1
    status=$?
    [ $status -eq 0 ] || failed=1
    printf '%-20s exit %d, %d s: %s\n' "$name" "$status" $((SECONDS - start)) "$*" | tee -a "$summary"
}

{
    date -u
    "$qzo" --version
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || true
} | tee -a "$summary"

part doctor "$qzo" doctor
export QZO_TEST_DEVICES=$backend CARGO_MANIFEST_DIR=$PWD
part tests "$tests" "::$backend::" --test-threads=1

# The same tiny run here and on the CPU: losses agree closely, and the journal replays to the same bytes.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
recipe=$work/run.toml
cat >"$recipe" <<TOML
model = "tests/fixtures/llama/base"
[data]
train = "configs/data/sentiment_dev.jsonl"
prompt = "{text} It was"
choices = [" terrible", " great"]
max_seq_length = 60
overlong = "truncate"
[quantize]
group_size = 32
[train]
max_steps = 20
TOML
part finetune "$qzo" finetune --config "$recipe" --device "$device" -o "$work/run"
part replay "$qzo" replay "$work/run" --device "$device" -o "$work/replayed"
part replay-cpu "$qzo" replay "$work/run" --device cpu -o "$work/replayed-cpu"
part same-bytes diff -r "$work/run/final" "$work/replayed"
part same-bytes-cpu diff -r "$work/run/final" "$work/replayed-cpu"

part matmul "$qzo" bench --matmul --device "$device" --json
if [ -n "$model" ]; then
    for where in "$device" cpu; do
        part "eval-${where%%:*}" "$qzo" eval "$model" --device "$where" --json --limit 100 \
            --data configs/data/sentiment_dev.jsonl --prompt '{text} It was' --choice ' terrible' --choice ' great'
    done
    part steps "$qzo" bench --config configs/smollm2-sentiment.toml --model "$model" --device "$device" --json
fi
exit $failed
