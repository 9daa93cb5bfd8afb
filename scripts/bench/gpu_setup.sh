# shellcheck shell=bash disable=SC2154
# What gpu_suite.sh needs before its first part, and what keeps a card's memory small. Read by that script,
# whose variables it uses: work, python, device, backend, card, summary, logs.

# pack QZO TESTS DIR: both without symbols and compressed, for a machine to which little can be carried.
pack() {
    local file name
    mkdir -p "$3"
    for file in "$1:qzo" "$2:tests"; do
        name=${file##*:}
        strip -o "$3/$name" "${file%:*}" && xz -T0 -6 -f "$3/$name" && ls -l "$3/$name.xz"
    done
}

# unpacked FILE NAME: the path of a program that may be compressed; xz and zstd may be missing, Python is not.
unpacked() {
    local to=$work/$2
    case $1 in
    *.xz) xz -dc "$1" >"$to" 2>/dev/null || "$python" -c 'import lzma, shutil, sys
with lzma.open(sys.argv[1]) as packed, open(sys.argv[2], "wb") as program:
    shutil.copyfileobj(packed, program)' "$1" "$to" ;;
    *.zst) zstd -qdcf "$1" >"$to" ;;
    *.gz) gzip -dc "$1" >"$to" ;;
    *) realpath "$1" && return ;;
    esac || return
    chmod +x "$to" && echo "$to"
}

# usable: whether qzo says that it can use the device; its answer is left in doctor.log.
usable() {
    timeout -k 1 8 "$qzo" doctor --json >"$logs/doctor.log" 2>"$logs/doctor.err" || return
    ! grep -q "\"$backend\": *\"not usable" "$logs/doctor.log"
}

# link_toolkit: NVRTC under a name that every loader looks for, and the headers that it includes. Toolkits
# and Python wheels without files for developers have only names that end in their version.
link_toolkit() {
    local packages folder toolkit library
    packages=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null)
    mkdir -p "$work/lib"
    for folder in /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib "$packages"/nvidia/*/lib; do
        for library in "$folder"/libnvrtc.so.1[23]; do
            [ -e "$library" ] || continue
            ln -sf "$library" "$work/lib/libnvrtc.so"
            ln -sf "$library" "$folder"/libnvrtc-builtins.so* "$work/lib/"
            export LD_LIBRARY_PATH=$work/lib:$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
            break 2
        done
    done
    for toolkit in "${CUDA_PATH:-/usr/local/cuda}" /usr/local/cuda* "$packages"/nvidia/cu13 "$packages"/nvidia/cuda_runtime; do
        [ -e "$toolkit/include/cuda_runtime.h" ] || continue
        export CUDA_PATH=$toolkit
        break
    done
    echo "linked $(readlink "$work/lib/libnvrtc.so" || echo no NVRTC), headers of ${CUDA_PATH:-nowhere}" | tee -a "$summary"
}

# hold_memory, release_memory: between them the card has 24 GB, whatever it has.
hold_memory() {
    local line
    [ "$backend" = cuda ] && [ -z "$ballast_pid" ] || return 0
    coproc ballast { exec "$python" "$root/scripts/bench/hold_memory.py" --leave 24 --card "$card" 2>>"$logs/ballast.err"; }
    # Read by the trap of gpu_suite.sh too.
    ballast_pid=$!
    { read -r -t 15 -u "${ballast[0]:-0}" line; } 2>/dev/null || line="nothing held: the steps have the whole card"
    echo "$line" | tee -a "$summary"
}

release_memory() {
    [ -n "$ballast_pid" ] || return 0
    kill "$ballast_pid" 2>/dev/null
    wait "$ballast_pid" 2>/dev/null
    ballast_pid=
}
