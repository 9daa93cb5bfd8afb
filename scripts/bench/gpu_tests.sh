#!/usr/bin/env bash
# Runs the tests for one kind of device in a process each, several at a time: kernels are compiled one after
# another within a process, so that this is what uses many cores.
#
#   bash scripts/bench/gpu_tests.sh TESTS BACKEND DIR
#
# TESTS    the library's test binary; its tests whose path holds ::BACKEND:: are run (cuda or wgpu)
# DIR      gets results.txt, a line "STATUS SECONDS NAME" per test, and NAME.log, what it printed
#
# JOBS tests run at a time (default half the cores), each for LIMIT seconds at most (default 110).
set -uo pipefail
[ $# -eq 3 ] || { sed -n 2,10p "$0"; exit 2; }
export tests=$1 dir=$3 limit=${LIMIT:-110}
jobs=${JOBS:-$(($(nproc) / 2))}
mkdir -p "$dir"
"$tests" --list 2>/dev/null | sed -n 's/: test$//p' | grep "::$2::" >"$dir/names.txt"
count=$(wc -l <"$dir/names.txt")
[ "$count" -gt 0 ] || { echo "no test for $2 in $tests"; exit 1; }

one() {
    local start=$SECONDS log=$dir/${1//::/.}.log status
    # In the foreground, so that what stops this script stops the test too.
    timeout --foreground -k 2 "$limit" "$tests" --exact "$1" --test-threads=1 >"$log" 2>&1
    status=$?
    # The name is there, so a process that ran no test did not do as it was told.
    [ $status -ne 0 ] || grep -q '^test result: ok. \(1 passed\|0 passed; 0 failed; 1 ignored\)' "$log" || status=99
    echo "$status $((SECONDS - start)) $1" >>"$dir/results.txt"
}
export -f one
# shellcheck disable=SC2016 # The inner shell expands it.
xargs -P "$((jobs > 0 ? jobs : 1))" -I{} bash -c 'one "$1"' _ {} <"$dir/names.txt"
failed=$(grep -vc '^0 ' "$dir/results.txt")
ran=$(wc -l <"$dir/results.txt")
echo "$((ran - failed)) passed, $failed failed, $((count - ran)) not run"
[ "$failed" -eq 0 ] && [ "$ran" -eq "$count" ]
