# shellcheck shell=bash disable=SC2154,SC2016
# The report of gpu_suite.sh, read from what its parts left: `report LOGS` prints Markdown.
# Seconds and GB (10^9 bytes); an empty cell is something that was not measured.
# Needs bash, grep, sed and awk alone, as the machine may have nothing else. Read by gpu_suite.sh, whose
# variables it uses: device, backend, shapes, asked, dtypes, tokens, summary.

# number FILE KEY [MARK]: the value of a key of the JSON object on the last line (that holds MARK), or nothing.
number() {
    [ -f "$1" ] || return 0
    grep -a -e "${3:-{}" "$1" | tail -n 1 | grep -o "\"$2\": *[-+0-9.eE]*" | head -1 | sed 's/.*: *//'
}

# text FILE KEY: the same of a string.
text() {
    [ -f "$1" ] || return 0
    tail -n 1 "$1" | grep -o "\"$2\": *\"[^\"]*\"" | head -1 | sed 's/.*: *"//; s/"$//'
}

# driver_bytes FILE.memory: the most the driver saw in use, beyond what it saw before.
driver_bytes() {
    [ -s "$1" ] || return 0
    awk 'NR == 1 { base = $1 } $1 > most { most = $1 } END { printf "%.0f", (most - base) * 1048576 }' "$1"
}

# verdict NAME VALUE OP TARGET UNIT [NOTE]: one line of the table of targets; what is not a number misses.
verdict() {
    [ -n "$2" ] || { echo "| $1 | $3 $4 $5 | | not measured |"; return; }
    awk -v name="$1" -v v="$2" -v op="$3" -v t="$4" -v unit="$5" -v note="${6:-}" 'BEGIN {
        met = v ~ /^[-+0-9.eE]+$/ && (op == "≤" ? v + 0 <= t + 0 : v + 0 >= t + 0)
        shown = v ~ /^[-+0-9.eE]+$/ ? sprintf("%.3g %s%s", v, unit, note) : v
        printf "| %s | %s %s %s | %s | %s |\n", name, op, t, unit, shown, met ? "PASS" : "FAIL"
    }'
}

# ratio A B: A / B, or nothing where one is missing.
ratio() {
    [ -z "$1" ] || [ -z "$2" ] || awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.3f", a / b }'
}

# peak_gigabytes LOGS NAME: by the driver, or else by the program's own account; nothing where it failed.
peak_gigabytes() {
    local bytes
    [ -n "$(number "$1/$2.log" step_seconds)" ] || return 0
    bytes=$(driver_bytes "$1/$2.memory")
    ratio "${bytes:-$(number "$1/$2.log" peak_bytes)}" 1e9
}

# losses FILE: the losses of each step and sign, one a line.
losses() {
    [ -f "$1" ] || return 0
    tail -n 1 "$1" | grep -o '"losses": *\[\[[^"]*\]\]' | sed 's/^"losses": *//' | tr -s '[], ' '\n' | grep .
}

# losses_apart FILE OTHER: the largest relative difference; nan where a loss is no number or one is missing.
losses_apart() {
    local own other
    own=$(losses "$1") other=$(losses "$2")
    [ -n "$own" ] && [ -n "$other" ] || return 0
    paste <(echo "$own") <(echo "$other") | awk '{
        if ($1 !~ /^[-+0-9.eE]+$/ || $2 !~ /^[-+0-9.eE]+$/) bad = 1
        by = ($1 - $2) / ($2 != 0 ? $2 : 1e-9); by = by < 0 ? -by : by; most = by > most ? by : most
    } END { print bad ? "nan" : most + 0 }'
}

report() {
    printf '# QZO on %s\n\n```\n' "$device"
    cat "$summary"
    printf '```\n\n'
    targets "$1"
    kernels "$1" zo
    kernels "$1" exact
    steps_table "$1"
    [ ! -s "$1/losses-cpu-f32.log" ] || losses_table "$1"
    counters "$1"
    if [ -s "$1/cublas.err" ] && grep -q '^|' "$1/cublas.err"; then
        printf '\n## The packed product beside cuBLAS\n\n'
        printf 'Both signs, rows each; cuBLAS multiplies as many rows twice by a weight that is already unpacked.\n\n'
        grep '^|' "$1/cublas.err" | sed 's/^|$//'
    fi
    [ ! -s "$1/tests/results.txt" ] || failed_tests "$1/tests"
}

targets() {
    local logs=$1 first=${shapes[0]} second=${shapes[1]:-} dtype seconds peer tolerance apart exact place
    printf '## Targets\n\n| what | target | measured | |\n|---|---|---|---|\n'
    for dtype in $(printf '%s\n' f32 "${asked[@]}" | sort -u); do
        tolerance=2e-2
        [ "$dtype" != f32 ] || tolerance=1e-4
        apart=$(losses_apart "$logs/losses-$backend-$dtype.log" "$logs/losses-cpu-f32.log")
        [ ! -e "$logs/losses-$backend-$dtype.log" ] || [ -s "$logs/losses-$backend-$dtype.log" ] || apart=failed
        verdict "losses in $dtype beside the CPU's, largest relative difference" "$apart" ≤ $tolerance ""
        apart=$(losses_apart "$logs/losses-exact-$backend-$dtype.log" "$logs/losses-exact-cpu-f32.log")
        [ ! -e "$logs/losses-exact-$backend-$dtype.log" ] || [ -s "$logs/losses-exact-$backend-$dtype.log" ] || apart=failed
        verdict "losses of exact steps in $dtype beside the CPU's" "$apart" ≤ $tolerance ""
    done
    peer=$logs/peer-$first-${dtypes[0]}.log
    for dtype in "${dtypes[@]}"; do
        seconds=$(number "$logs/steps-$first-$dtype.log" step_seconds)
        if [ -z "$seconds" ] && [ -e "$logs/steps-$first-$dtype.log" ]; then
            verdict "$first step, $tokens tokens, $dtype" failed ≤ 0.40 s
            continue
        fi
        verdict "$first step, $tokens tokens, $dtype" "$seconds" ≤ 0.40 s
        verdict "$first, $dtype, beside compiled PyTorch" \
            "$(ratio "$(number "$peer" step_seconds '"compiled": true')" "$seconds")" ≥ 1.0 ×
        verdict "$first, $dtype, beside eager PyTorch" \
            "$(ratio "$(number "$peer" step_seconds '"compiled": false')" "$seconds")" ≥ 1.3 ×
        verdict "$first peak, $dtype" "$(peak_gigabytes "$logs" "steps-$first-$dtype")" ≤ 8.5 GB
    done
    exact=exact-$first-${dtypes[0]}
    for place in device host; do
        verdict "exact step of $first beside a ± step, ${dtypes[0]}, block inputs in $place memory" "$(ratio \
            "$(number "$logs/$exact-$place.log" step_seconds)" \
            "$(number "$logs/steps-$first-${dtypes[0]}.log" step_seconds)")" ≤ 2.1 ×
    done
    verdict "$first, losses with block inputs in host memory beside those on the card" \
        "$(losses_apart "$logs/$exact-host.log" "$logs/$exact-device.log")" ≤ 0 ""
    verdict "$first peak of exact steps, ${dtypes[0]}, block inputs in host memory" \
        "$(peak_gigabytes "$logs" "$exact-host")" ≤ 8.9 GB
    verdict "share of cuBLAS at 4096 rows, with unpacking" "$(number "$logs/cublas.log" best_share)" ≥ 0.9 "" \
        " ($(text "$logs/cublas.log" best_path) at $(number "$logs/cublas.log" best_rows) rows)"
    [ -z "$second" ] ||
        verdict "$second peak, ${dtypes[0]}" "$(peak_gigabytes "$logs" "steps-$second-${dtypes[0]}")" ≤ 21 GB
    [ ! -s "$logs/tests/results.txt" ] || verdict "tests failed or not run, of $(wc -l <"$logs/tests/names.txt")" \
        "$(($(wc -l <"$logs/tests/names.txt") - $(grep -c '^0 ' "$logs/tests/results.txt")))" ≤ 0 ""
}

# kernels LOGS METHOD: seconds of the last launches of each kernel: a first half compiled them and warmed up.
kernels() {
    [ -s "$1/kernels-$2.log" ] || return 0
    printf '\n## Kernels of %s\n\nThe second step of %s, by name, with a wait after each launch, which is 10 µs or so of each time.\n' \
        "$2" "${shapes[0]}"
    printf 'What cuBLAS launches is not here, but among the hardware counters.\n\n'
    printf '| kernel | launches | ms | share |\n|---|---|---|---|\n'
    LC_ALL=C awk '
        $1 == "|" && $2 ~ /^[0-9.]+(ns|..s|ms|s)$/ && $3 == "|" {
            time = $2 + 0
            time *= $2 ~ /ns$/ ? 1e-6 : $2 ~ /ms$/ ? 1 : $2 ~ /[0-9]s$/ ? 1e3 : 1e-3
            name = $0; sub(/^\| *[^ ]+ *\| */, "", name)
            # What every kernel of a kind has in its name tells nothing; what is left tells the kinds apart.
            gsub(/ \| (Dynamic(Scalar|Size)|__[A-Za-z]+|[A-Za-z]+Runtime|TensorArgs|\(\)|Option)/, "", name)
            gsub(/ \| (Dynamic(Scalar|Size)|__[A-Za-z]+|[A-Za-z]+Runtime|TensorArgs|\(\)|Option)/, "", name)
            gsub(/ *\| */, " / ", name)
            at[name, ++count[name]] = time
        }
        END {
            for (name in count) {
                launches = int((count[name] + 1) / 2)
                for (i = count[name] - launches + 1; i <= count[name]; i++) sum[name] += at[name, i]
                all += sum[name]; number += launches; of[name] = launches
            }
            for (name in sum) printf "%.3f\t| %s | %d | %.3f | %.1f %% |\n", sum[name], substr(name, 1, 160), of[name], sum[name], 100 * sum[name] / all
            printf "0\t| all | %d | %.3f | |\n", number, all
        }' "$1/kernels-$2.log" | sort -rg | cut -f 2-
}

steps_table() {
    local logs=$1 log name shape seconds peer eager compiled peak plan
    printf '\n## Steps\n\n'
    echo "The median. Peaks are the driver's beyond what it held before (without"
    printf 'nvidia-smi the program'"'"'s own account). The peer is measured in the first of the types alone.\n\n'
    echo -n "| shape, type | tokens | qzo s/step | least | tokens/s | PyTorch eager s | compiled s "
    echo "| peak GB | plan GB | peak/plan | PyTorch peak GB | load s |"
    echo "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for log in "$logs"/steps-*.log "$logs"/exact-*.log; do
        [ -f "$log" ] || continue
        name=${log##*/} name=${name%.log} shape=${name#steps-} shape=${shape%-*}
        [ "$shape" = "${shape#exact-}" ] || shape=none
        peer=peer-$shape-${dtypes[0]}
        eager=$(number "$logs/$peer.log" step_seconds '"compiled": false')
        compiled=$(number "$logs/$peer.log" step_seconds '"compiled": true')
        seconds=$(number "$log" step_seconds)
        if [ -z "$seconds" ]; then
            echo "| ${name#steps-} | | failed, see $name.err | | | $(ratio "$eager" 1) | $(ratio "$compiled" 1) | | | | | |"
            continue
        fi
        peak=$(peak_gigabytes "$logs" "$name") plan=$(ratio "$(number "$log" plan_bytes)" 1e9)
        printf '| %s | %s | %s | %s | %.0f | %s | %s | %s | %s | %s | %s | %s |\n' "${name#steps-}" \
            "$(number "$log" tokens)" "$(ratio "$seconds" 1)" "$(ratio "$(number "$log" step_seconds_min)" 1)" \
            "$(number "$log" tokens_per_second)" "$(ratio "$eager" 1)" "$(ratio "$compiled" 1)" \
            "$peak" "$plan" "$(ratio "$peak" "$plan")" "$(peak_gigabytes "$logs" "$peer")" \
            "$(ratio "$(number "$log" load_seconds)" 1)"
    done
}

losses_table() {
    local log
    printf '\n## Losses of the tiny shape\n\n| run | plus and minus of each step |\n|---|---|\n'
    for log in "$1"/losses-*.log; do
        printf '| %s | %s |\n' "$(basename "$log" .log)" "$(losses "$log" | tr '\n' ' ')"
    done
}

# counters: what ncu saw of a layer or two.
counters() {
    [ -f "$1/ncu.log" ] && grep -q '^"' "$1/ncu.log" || return 0
    printf '\n## Hardware counters\n\nA few layers of the first pass, as ncu timed them.\n\n'
    printf '| kernel | launches | µs each | DRAM throughput, %% of the peak |\n|---|---|---|---|\n'
    grep -a '^"' "$1/ncu.log" | awk -F'","' '
        /"Kernel Name"/ { for (i = 1; i <= NF; i++) { gsub(/"/, "", $i); column[$i] = i } next }
        {
            name = substr($column["Kernel Name"], 1, 90); gsub(/\|/, "/", name)
            value = $column["Metric Value"]; gsub(/[",]/, "", value)
            if ($column["Metric Name"] ~ /time_duration/) { time[name] += value / 1e3; count[name]++ }
            else dram[name] += value
        }
        END { for (name in count) printf "%.3f\t| %s | %d | %.1f | %.0f |\n", time[name], name, count[name], time[name] / count[name], dram[name] / count[name] }
    ' | sort -rg | cut -f 2-
}

failed_tests() {
    printf '\n## Tests\n\n%s of %s passed.\n' "$(grep -c '^0 ' "$1/results.txt")" "$(wc -l <"$1/names.txt")"
    printf 'The slowest took %s.\n' "$(sort -k 2 -rn "$1/results.txt" | head -5 | awk '{ printf "%s%d s (%s)", (NR > 1) ? ", " : "", $2, $3 }')"
    grep -v '^0 ' "$1/results.txt" | while read -r status seconds name; do
        printf '\n`%s`: exit %s after %s s\n\n```\n' "$name" "$status" "$seconds"
        grep -a -A 6 'panicked at\|^error\|): error: ' "$1/${name//::/.}.log" | grep -v 'RUST_BACKTRACE\|XDG_RUNTIME\|^failures\|^$' | cut -c 1-400 | head -16
        echo '```'
    done
}
