# The report of gpu_suite.sh, read from the files its parts left: `report OUT` prints Markdown.
# Seconds and GB (10^9 bytes); an empty cell is something that was not measured.
# Needs bash, grep, sed and awk alone, as the machine may have nothing else.

# number FILE KEY: the value of a key of the JSON object on the last line, or nothing.
number() {
    [ -f "$1" ] && tail -n 1 "$1" | grep -o "\"$2\": *[-+0-9.eE]*" | head -1 | sed 's/.*: *//'
}

# driver_bytes FILE.memory: the most the driver saw in use, beyond what it saw before.
driver_bytes() {
    [ -s "$1" ] || return
    awk 'NR == 1 { base = $1 } $1 > most { most = $1 } END { printf "%.0f", (most - base) * 1048576 }' "$1"
}

# verdict NAME VALUE OP TARGET UNIT: one line of the table of targets; nothing where the value is missing.
verdict() {
    [ -n "$2" ] || { echo "| $1 | $3 $4 $5 | not measured | |"; return; }
    awk -v name="$1" -v v="$2" -v op="$3" -v t="$4" -v unit="$5" 'BEGIN {
        met = op == "≤" ? v <= t : v >= t
        printf "| %s | %s %s %s | %.3g %s | %s |\n", name, op, t, unit, v, unit, met ? "met" : "missed"
    }'
}

# ratio A B: A / B, or nothing where one is missing.
ratio() {
    [ -z "$1" ] || [ -z "$2" ] || awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.3f", a / b }'
}

# peak_gigabytes OUT SHAPE: by the driver, or else by qzo's own account; nothing where the steps failed.
peak_gigabytes() {
    local bytes
    [ -n "$(number "$1/steps-$2.log" step_seconds)" ] || return
    bytes=$(driver_bytes "$1/steps-$2.memory") || bytes=
    ratio "${bytes:-$(number "$1/steps-$2.log" peak_bytes)}" 1e9
}

report() {
    local out=$1 log name seconds peer peak plan peer_peak shares
    printf '# QZO on %s\n\n```\n' "$device"
    cat "$out/summary.txt"
    printf '```\n\n## Steps\n\n'
    echo "Two passes and an update; peaks are the driver's beyond what it held before (without nvidia-smi the"
    echo "program's own account)."
    echo
    echo -n "| shape | tokens | qzo s/step | tokens/s | PyTorch s/step | qzo is faster by "
    echo "| peak GB | plan GB | peak/plan | PyTorch peak GB | load s |"
    echo "|---|---|---|---|---|---|---|---|---|---|---|"
    for log in "$out"/steps-*.log; do
        [ -f "$log" ] || continue
        name=${log##*/steps-} name=${name%.log}
        seconds=$(number "$log" step_seconds) peer=$(number "$out/peer-$name.log" step_seconds)
        peak=$(peak_gigabytes "$out" "$name") plan=$(ratio "$(number "$log" plan_bytes)" 1e9)
        peer_peak=$(ratio "$(driver_bytes "$out/peer-$name.memory" || number "$out/peer-$name.log" peak_bytes)" 1e9)
        if [ -z "$seconds" ]; then
            echo "| $name | | failed, see steps-$name.err | | $(ratio "$peer" 1) | | | | | | |"
            continue
        fi
        printf '| %s | %s | %s | %.0f | %s | %s | %s | %s | %s | %s | %s |\n' "$name" "$(number "$log" tokens)" \
            "$(ratio "$seconds" 1)" "$(number "$log" tokens_per_second)" "$(ratio "$peer" 1)" \
            "$(ratio "$peer" "$seconds")" "$peak" "$plan" "$(ratio "$peak" "$plan")" "$peer_peak" \
            "$(ratio "$(number "$log" load_seconds)" 1)"
    done
    printf '\n## Targets\n\n| what | target | measured | |\n|---|---|---|---|\n'
    seconds=$(number "$out/steps-llama2-13b.log" step_seconds)
    verdict "13B step, 16 × 256 tokens" "$seconds" ≤ 0.40 s
    verdict "13B beside PyTorch" "$(ratio "$(number "$out/peer-llama2-13b.log" step_seconds)" "$seconds")" ≥ 1.3 ×
    verdict "13B peak" "$(peak_gigabytes "$out" llama2-13b)" ≤ 8.5 GB
    verdict "32B peak" "$(peak_gigabytes "$out" qwen2.5-32b)" ≤ 22 GB
    shares=$out/cublas.err
    if [ -s "$shares" ] && grep -q '^|' "$shares"; then
        printf '\n## The packed product beside cuBLAS\n\n'
        printf 'One product with both signs; cuBLAS multiplies as many rows by a weight already unpacked.\n\n'
        grep '^|' "$shares"
    fi
}
