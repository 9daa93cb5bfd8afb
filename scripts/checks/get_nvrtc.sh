#!/usr/bin/env bash
# Fetches NVIDIA's run-time compiler and the headers that the CUDA kernels include, as Python wheels, and
# unpacks them into DIR. With QZO_NVRTC=DIR the tests compile every CUDA kernel: that needs no card.
#
#   bash scripts/checks/get_nvrtc.sh DIR
#
# PYTHON names the interpreter whose pip downloads (default python3).
set -euo pipefail
[ $# -eq 1 ] || { sed -n 2,7p "$0"; exit 2; }
dir=$1

# The oldest release that has all parts as wheels.
version='==13.0.*'
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$wheels" "nvidia-cuda-nvrtc$version" "nvidia-cuda-runtime$version" \
    "nvidia-cuda-cccl$version" "nvidia-cuda-crt$version"
mkdir -p "$dir"
for wheel in "$wheels"/*.whl; do
    "${PYTHON:-python3}" -m zipfile --extract "$wheel" "$dir"
done
