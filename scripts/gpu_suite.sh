#!/usr/bin/env bash
# Correctness, speed and memory on a machine with a card: losses beside the CPU's, whole steps of 13B, 32B and
# 7B shapes with 24 GB of memory and beside a PyTorch peer, times of single kernels, the packed product beside
# cuBLAS, the tests of kernels and models, a run and its replay on two devices, and a real model where one is given.
#
#   bash scripts/gpu_suite.sh QZO TESTS OUT [MODEL.gguf]
#   bash scripts/gpu_suite.sh --pack QZO TESTS DIR       # small enough to carry: DIR/qzo.xz, DIR/tests.xz
#
# QZO     the built program (target/release/qzo), or that as .xz, .gz or .zst
# TESTS   the library's test binary, likewise, from: cargo test --release --lib --no-run
# OUT     new folder for the results: report.md, summary.txt, and logs.tar.gz with all that the parts printed;
#         all three are complete after each part. LOGS names another folder than OUT/logs for the loose logs.
#
# The machine needs neither cargo nor a network: a CUDA driver, NVRTC and the CUDA headers of a toolkit or of
# Python wheels. Peers need a python3 with PyTorch (or PYTHON=...), and are left out without one. All of it takes
# TIME seconds at most (570), what matters most first; 240 are enough for all up to the comparison with cuBLAS. PARTS
# chooses some of
#
#   losses steps exact profile peer matmul cublas tests ncu big finetune small model
#
# A rehearsal without a card:
#
#   DEVICE=wgpu SHAPES=tiny TOKENS=256 SEQ_LENGTH=64 GROUP_SIZE=64 bash scripts/gpu_suite.sh QZO TESTS OUT
set -uo pipefail
root=$(realpath "$(dirname "$0")/..")
. "$root/scripts/bench/gpu_setup.sh"
. "$root/scripts/bench/gpu_report.sh"
[ "${1:-}" != --pack ] || { shift && pack "$@"; exit; }
[ $# -ge 3 ] || { sed -n 2,23p "$0"; exit 2; }
device=${DEVICE:-cuda}
backend=${device%%:*}
card=${device#*:}
[ "$card" != "$device" ] || card=0
read -r -a dtypes <<<"${DTYPES:-$([ "$backend" = cuda ] && echo bf16 f16 || echo f32)}"
asked=("${dtypes[@]}")
read -r -a shapes <<<"${SHAPES:-llama2-13b qwen2.5-32b llama2-7b}"
declare -A torch_names=([bf16]=bfloat16 [f16]=float16 [f32]=float32)
peer_device=$([ "$backend" = cuda ] && echo "$device" || echo cpu)
tokens=${TOKENS:-4096} seq_length=${SEQ_LENGTH:-256} group_size=${GROUP_SIZE:-128} steps=${STEPS:-3}
chosen=${PARTS:-losses steps exact profile peer matmul cublas tests ncu big finetune small model}
exec </dev/null
deadline=$((SECONDS + ${TIME:-570}))
python=$(command -v "${PYTHON:-python3}")
out=$(realpath -m "$3") model=${4:+$(realpath "$4")}
[ ! -e "$out/summary.txt" ] || { echo "$out has the results of an earlier run"; exit 2; }
logs=$(realpath -m "${LOGS:-$out/logs}")
summary=$out/summary.txt
mkdir -p "$out" "$logs"
work=$(mktemp -d)
ballast_pid=
trap 'release_memory; rm -rf "$work"' EXIT

# wants NAME: whether a group of parts was asked for and there is time for it.
wants() {
    [[ " $chosen " == *" $1 "* ]] || return
    [ $((deadline - SECONDS)) -ge 5 ] || { printf '%-24s not run: out of time\n' "$1" | tee -a "$summary"; return 1; }
}

# run LIMIT NAME COMMAND...: runs it for LIMIT seconds at most, keeps what it prints, notes how it ended.
run() {
    local limit=$1 name=$2 start=$SECONDS status
    shift 2
    echo "$*" >"$logs/$name.command"
    [ "$limit" -le $((deadline - SECONDS)) ] || limit=$((deadline - SECONDS))
    if [ "$limit" -lt 3 ]; then
        printf '%-24s not run: out of time\n' "$name" | tee -a "$summary"
        return 1
    fi
    timeout -k 3 "$limit" "$@" >"$logs/$name.log" 2>"$logs/$name.err"
    status=$?
    # One that was stopped may have left the compiled kernels locked.
    find "$work/kernels" -name '*.lock' -mmin +0.1 -delete 2>/dev/null
    printf '%-24s exit %d, %d s\n' "$name" "$status" $((SECONDS - start)) | tee -a "$summary"
    [ $status -eq 0 ] || tail -n 3 "$logs/$name.err" | sed 's/^/    /' | tee -a "$summary"
    return $status
}

# save: writes the report and the archive anew.
save() {
    report "$logs" >"$out/report.md"
    tar -czf "$out/logs.tar.gz" -C "$logs" . 2>/dev/null
}

part() {
    run "$@"
    local status=$?
    save
    return $status
}

# on_card LIMIT NAME COMMAND...: a part with the card's memory, as its driver tells it, in NAME.memory (MiB),
# ten times a second; the first line is what was held before.
on_card() {
    local watcher=
    if [ "$backend" = cuda ] && command -v nvidia-smi >/dev/null; then
        nvidia-smi -i "$card" --query-gpu=memory.used --format=csv,noheader,nounits -lms 100 >"$logs/$2.memory" 2>/dev/null &
        watcher=$!
        for _ in {1..20}; do
            [ -s "$logs/$2.memory" ] && break
            sleep 0.1
        done
    fi
    run "$@"
    [ -z "$watcher" ] || { kill "$watcher"; wait "$watcher" 2>/dev/null; }
    save
}

# sizes SHAPE: the arguments that qzo and its peer share, one a line.
sizes() {
    printf '%s\n' --shape "$1" --tokens "$tokens" --seq-length "$seq_length" --group-size "$group_size"
}

# steps_of SHAPE DTYPE LIMIT
steps_of() {
    local args
    mapfile -t args < <(sizes "$1")
    on_card "$3" "steps-$1-$2" "$qzo" bench "${args[@]}" --bits 4 --steps "$steps" --device "$device" --dtype "$2" --json
}

# exact_of SHAPE DTYPE LIMIT: steps of exact gradients, with the blocks' inputs in both places.
exact_of() {
    local args place
    mapfile -t args < <(sizes "$1")
    for place in host device; do
        on_card "$3" "exact-$1-$2-$place" "$qzo" bench "${args[@]}" --bits 4 --steps "$steps" --method exact \
            --block-inputs "$place" --device "$device" --dtype "$2" --json
    done
}

# peer_of SHAPE DTYPE LIMIT
peer_of() {
    local args
    [ -n "$peers" ] || return 0
    mapfile -t args < <(sizes "$1")
    on_card "$3" "peer-$1-$2" "$python" "$root/scripts/bench/peer_pytorch.py" "${args[@]}" --steps "$steps" \
        --device "$peer_device" --dtype "${torch_names[$2]}" --cap 24
}

# losses_on DEVICE DTYPE: of a small model, where a wrong result cannot hide behind a time.
losses_on() {
    run 45 "losses-${1%%:*}-$2" "$qzo" bench --shape tiny --tokens 256 --seq-length 64 --group-size 64 --steps 3 \
        --seed 0 --device "$1" --dtype "$2" --json -vv
    run 45 "losses-exact-${1%%:*}-$2" "$qzo" bench --shape tiny --tokens 256 --seq-length 64 --group-size 64 --steps 3 \
        --method exact --seed 0 --device "$1" --dtype "$2" --json -vv
}

torch_works() {
    "$python" -c "import torch; torch.empty(1, device='$peer_device')" 2>"$logs/torch.err"
}

{
    date -u
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
} | tee "$summary"
qzo=$(unpacked "$1" qzo) || { echo "$1 cannot be unpacked here"; exit 1; }
unpacked "$2" tests >"$work/tests.path" &
unpacking=$!
"$qzo" --version | tee -a "$summary"
if ! usable; then
    [ "$backend" != cuda ] || link_toolkit
    if ! usable; then
        echo "stopped: $backend is not usable" | tee -a "$summary"
        cat "$logs/doctor.log" "$logs/doctor.err" | tee -a "$summary"
        save
        exit 1
    fi
fi
tee -a "$summary" <"$logs/doctor.log"

# All runs are in one folder, so that a kernel is compiled once for all of them.
export QZO_TEST_DEVICES=$backend CARGO_MANIFEST_DIR=$root
printf '[compilation]\ncache = { file = "%s" }\n' "$work/kernels" >"$work/cubecl.toml"
cd "$work" || exit

if wants losses; then
    losses_on cpu f32 &
    for dtype in $(printf '%s\n' f32 "${asked[@]}" | sort -u); do
        losses_on "$device" "$dtype" &
    done
    torch_works && touch "$work/torch"
    wait
    # What cannot take a small step needs no large one.
    sound=()
    for dtype in "${dtypes[@]}"; do
        [ ! -s "$logs/losses-$backend-$dtype.log" ] || sound+=("$dtype")
    done
    if [ ${#sound[@]} -eq 0 ]; then
        chosen=" tests "
        echo "no step can be taken: tests alone are left" | tee -a "$summary"
    else
        dtypes=("${sound[@]}")
    fi
    save
fi
peers=
if [[ " $chosen " =~ \ (peer|cublas|big|small)\  ]]; then
    { [ -e "$work/torch" ] || torch_works; } && peers=yes
    [ -n "$peers" ] || echo "no PyTorch for $peer_device here: peers and cuBLAS are left out" | tee -a "$summary"
fi

if wants steps; then
    hold_memory
    for dtype in "${dtypes[@]}"; do
        steps_of "${shapes[0]}" "$dtype" 80
    done
    release_memory
fi
if wants exact; then
    hold_memory
    exact_of "${shapes[0]}" "${dtypes[0]}" 80
    release_memory
fi
if wants profile; then
    # The first of the two steps compiles; the report counts the second.
    mkdir -p "$work/profiled"
    mapfile -t args < <(sizes "${shapes[0]}")
    for method in zo exact; do
        { cat "$work/cubecl.toml"; printf '[profiling.logger]\nlevel = "medium"\nfile = "%s"\n' "$logs/kernels-$method.log"; } \
            >"$work/profiled/cubecl.toml"
        part 60 "profile-$method" env -C "$work/profiled" "$qzo" bench "${args[@]}" --bits 4 --steps 1 --method "$method" \
            --device "$device" --dtype "${dtypes[0]}" --json
    done
fi
! wants peer || peer_of "${shapes[0]}" "${dtypes[0]}" 90
if wants matmul; then
    part 90 matmul "$qzo" bench --matmul --shape "${shapes[0]}" --tokens $((2 * tokens)) --device "$device" \
        --dtype "${dtypes[0]}" --json
fi
if wants cublas && [ -n "$peers" ]; then
    rehearsal=()
    [ "$backend" = cuda ] || rehearsal=(--dtypes float32 --limit 1e9)
    part 60 cublas "$python" "$root/scripts/bench/cublas_sweep.py" --qzo "$logs/matmul.log" --device "$peer_device" \
        --seconds 25 "${rehearsal[@]}"
fi
if wants tests; then
    wait "$unpacking" 2>/dev/null
    part 150 tests bash "$root/scripts/bench/gpu_tests.sh" "$(<"$work/tests.path")" "$backend" "$logs/tests"
fi
if wants ncu && [ "$backend" = cuda ] && command -v ncu >/dev/null; then
    # Some layers of the first pass, which takes some 650 launches for 40 layers, cuBLAS's among them.
    mapfile -t args < <(sizes "${shapes[0]}")
    part 70 ncu ncu --clock-control none --csv --print-units base --launch-skip 400 --launch-count 80 \
        --metrics gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed \
        "$qzo" bench "${args[@]}" --bits 4 --steps 1 --device "$device" --dtype "${dtypes[0]}" --json
fi
if [ ${#shapes[@]} -gt 1 ] && wants big; then
    hold_memory
    steps_of "${shapes[1]}" "${dtypes[0]}" 120
    release_memory
    peer_of "${shapes[1]}" "${dtypes[0]}" 90
fi

# The same tiny run here and on the CPU: the journal replays to the same bytes.
if wants finetune; then
    cat >"$work/run.toml" <<TOML
model = "$root/tests/fixtures/llama/base"
[data]
train = "$root/configs/data/sentiment_dev.jsonl"
prompt = "{text} It was"
choices = [" terrible", " great"]
max_seq_length = 60
overlong = "truncate"
[quantize]
group_size = 32
[train]
method = "zo"
max_steps = 20
TOML
    part 40 finetune "$qzo" finetune --config "$work/run.toml" --device "$device" -o "$work/run"
    part 40 replay "$qzo" replay "$work/run" --device "$device" -o "$work/replayed"
    part 20 replay-cpu "$qzo" replay "$work/run" --device cpu -o "$work/replayed-cpu"
    part 10 same-bytes diff -r "$work/run/final" "$work/replayed"
    part 10 same-bytes-cpu diff -r "$work/run/final" "$work/replayed-cpu"
fi
for shape in "${shapes[@]:2}"; do
    wants small || continue
    steps_of "$shape" "${dtypes[0]}" 80
    peer_of "$shape" "${dtypes[0]}" 60
done
if [ -n "$model" ] && wants model; then
    for where in "$device" cpu; do
        part 60 "eval-${where%%:*}" "$qzo" eval "$model" --device "$where" --json --limit 100 \
            --data "$root/configs/data/sentiment_dev.jsonl" --prompt '{text} It was' --choice ' terrible' --choice ' great'
    done
    part 60 steps-model env -C "$root" "$qzo" bench --config configs/smollm2-sentiment-zo.toml --model "$model" --device "$device" --json
fi
save
sed -n '/^## Targets/,/^## Hardware/p' "$out/report.md" | grep -v '^## Hardware'
! grep -q 'exit [1-9]\|: not run\|not run: ' "$summary"
