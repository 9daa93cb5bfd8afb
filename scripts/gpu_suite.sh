#!/usr/bin/env bash
# Correctness, speed and memory on a machine with a card: kernels and models against their references, whole
# steps of 7B, 13B and 32B shapes beside a PyTorch peer and with 24 GB of memory, the packed product beside
# cuBLAS, a run and its replay on two devices, and the steps of a real model where one is given.
#
#   bash scripts/gpu_suite.sh QZO TESTS OUT [MODEL.gguf]
#
# QZO     the built program (target/release/qzo)
# TESTS   the library's test binary, from: cargo test --release --lib --no-run
# OUT     new folder for the results: NAME.log (standard output) and NAME.err of each part, summary.txt, report.md
#
# The machine needs neither cargo nor a network: a CUDA driver, NVRTC and the CUDA headers (CUDA_PATH,
# or /usr/local/cuda). Peers need a python3 with PyTorch (or PYTHON=...), and are left out without one. All of
# it takes TIME seconds at most, what matters most first; both files of results are complete after each part.
# A rehearsal without a card:
#
#   DEVICE=wgpu SHAPES=tiny TOKENS=256 SEQ_LENGTH=64 GROUP_SIZE=64 bash scripts/gpu_suite.sh QZO TESTS OUT
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 3 ] || { sed -n 2,19p "$0"; exit 2; }
qzo=$1 tests=$2 out=$3 model=${4:-}
device=${DEVICE:-cuda}
backend=${device%%:*}
dtype=f16 peer_dtype=float16 peer_device=$device
[ "$backend" = cuda ] || dtype=f32 peer_dtype=float32 peer_device=cpu
tokens=${TOKENS:-4096} seq_length=${SEQ_LENGTH:-256} group_size=${GROUP_SIZE:-128} steps=${STEPS:-5}
deadline=$((SECONDS + ${TIME:-570}))
python=${PYTHON:-python3}
[ ! -e "$out/summary.txt" ] || { echo "$out has the results of an earlier run"; exit 2; }
mkdir -p "$out"
summary=$out/summary.txt
failed=0

. scripts/gpu_report.sh

# part LIMIT NAME COMMAND...: runs it for LIMIT seconds at most, keeps what it prints, notes how it ended.
part() {
    local limit=$1 name=$2 start=$SECONDS status
    shift 2
    [ "$limit" -le $((deadline - SECONDS)) ] || limit=$((deadline - SECONDS))
    if [ "$limit" -lt 5 ]; then
        printf '%-20s not run: out of time\n' "$name" | tee -a "$summary"
        failed=1
        return 1
    fi
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>"$out/$name.err"
    status=$?
    [ $status -eq 0 ] || failed=1
    printf '%-20s exit %d, %d s: %s\n' "$name" "$status" $((SECONDS - start)) "$*" | tee -a "$summary"
    report "$out" >"$out/report.md"
    return $status
}

# The same with the card's memory, as its driver tells it, written to NAME.memory (MiB) ten times a second.
on_card() {
    local watcher=
    if [ "$backend" = cuda ] && command -v nvidia-smi >/dev/null; then
        nvidia-smi -i "$card" --query-gpu=memory.used --format=csv,noheader,nounits -lms 100 >"$out/$2.memory" &
        watcher=$!
        sleep 1 # the first lines are what was held before
    fi
    part "$@"
    [ -z "$watcher" ] || { kill "$watcher"; wait "$watcher" 2>/dev/null; }
}

# steps_of SHAPE LIMIT PEER_LIMIT
steps_of() {
    local sizes=(--shape "$1" --tokens "$tokens" --seq-length "$seq_length" --group-size "$group_size" --steps "$steps")
    on_card "$2" "steps-$1" "$qzo" bench "${sizes[@]}" --bits 4 --device "$device" --dtype "$dtype" --json
    [ -z "$peers" ] || on_card "$3" "peer-$1" "$python" scripts/peer_pytorch.py "${sizes[@]}" \
        --device "$peer_device" --dtype "$peer_dtype" --cap 24 $([ "$backend" = cuda ] || echo --no-compile)
}

work=$(mktemp -d)
ballast_pid=
trap 'rm -rf "$work"; [ -z "$ballast_pid" ] || kill "$ballast_pid"' EXIT
card=${device#*:}
[ "$card" != "$device" ] || card=0
{
    date -u
    "$qzo" --version
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || true
} | tee -a "$summary"
peers=yes
"$python" -c "import torch; torch.empty(1, device='$peer_device')" 2>/dev/null || peers=
[ -n "$peers" ] || echo "no PyTorch for $peer_device here: peers and cuBLAS are left out" | tee -a "$summary"

part 30 doctor "$qzo" doctor
export QZO_TEST_DEVICES=$backend CARGO_MANIFEST_DIR=$PWD
part 110 tests "$tests" "::$backend::" --test-threads=1

# A process that takes all but 24 GB, so that the steps have what a smaller card has.
if [ "$backend" = cuda ] && [ -n "$peers" ]; then
    coproc ballast { exec "$python" scripts/peer_pytorch.py --hold-all-but 24 --device "$device" 2>"$out/ballast.err"; }
    ballast_pid=$!
    { read -r -t 60 -u "${ballast[0]:-0}" line; } 2>/dev/null || line="no ballast: the steps have the whole card"
    echo "$line" | tee -a "$summary"
fi
read -r -a shapes <<<"${SHAPES:-llama2-13b qwen2.5-32b llama2-7b}"
for shape in "${shapes[@]:0:2}"; do
    steps_of "$shape" 110 80
done

part 90 matmul "$qzo" bench --matmul --shape "${shapes[0]}" --tokens $((2 * tokens)) --device "$device" --dtype "$dtype" --json
[ -z "$peers" ] || part 60 cublas "$python" scripts/cublas_sweep.py --qzo "$out/matmul.log" --device "$peer_device" \
    $([ "$backend" = cuda ] || echo --dtypes float32 --limit 1e9)

# The same tiny run here and on the CPU: losses agree closely, and the journal replays to the same bytes.
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
part 40 finetune "$qzo" finetune --config "$recipe" --device "$device" -o "$work/run"
part 40 replay "$qzo" replay "$work/run" --device "$device" -o "$work/replayed"
part 20 replay-cpu "$qzo" replay "$work/run" --device cpu -o "$work/replayed-cpu"
part 10 same-bytes diff -r "$work/run/final" "$work/replayed"
part 10 same-bytes-cpu diff -r "$work/run/final" "$work/replayed-cpu"

for shape in "${shapes[@]:2}"; do
    steps_of "$shape" 80 60
done
if [ -n "$model" ]; then
    for where in "$device" cpu; do
        part 60 "eval-${where%%:*}" "$qzo" eval "$model" --device "$where" --json --limit 100 \
            --data configs/data/sentiment_dev.jsonl --prompt '{text} It was' --choice ' terrible' --choice ' great'
    done
    part 60 steps "$qzo" bench --config configs/smollm2-sentiment.toml --model "$model" --device "$device" --json
fi
sed -n '/^## Steps/,$p' "$out/report.md"
exit $failed
