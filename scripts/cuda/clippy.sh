#!/bin/sh
# Clippy on the code that launches kernels.
set -eu
cd "$(dirname "$0")/../.."
. scripts/cuda/stand-in/env.sh
cargo clippy --locked --features cuda --all-targets --target-dir "$target" -- -D warnings
