#!/usr/bin/env bash
# Everything that must hold before a change goes in: format, lints, documentation, all tests.
#
#   bash scripts/check.sh
#
# The tests run on every device that is here; QZO_TEST_DEVICES=wgpu (or wgpu,cuda) makes a missing one a
# failure instead of a skip. QZO_NVRTC names a folder filled by scripts/checks/get_nvrtc.sh, in which the CUDA
# kernels are compiled without a card; "nvrtc" in QZO_TEST_DEVICES makes its absence a failure, too. With
# QZO_TEST_TOOLS=strace the order in which files come to the disk must be tested, with strace,chromium also a report in
# a browser.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all -- --check
cargo clippy --release --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --lib
cargo test --release --locked
