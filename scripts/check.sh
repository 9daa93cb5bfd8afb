#!/usr/bin/env bash
# Everything that must hold before a change goes in: format, lints, all tests.
#
#   bash scripts/check.sh
#
# The tests run on every device that is here; QZO_TEST_DEVICES=wgpu (or wgpu,cuda) makes a missing one a
# failure instead of a skip.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all -- --check
cargo clippy --release --locked --all-targets -- -D warnings
cargo test --release --locked
