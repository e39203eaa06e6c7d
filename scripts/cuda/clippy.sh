#!/bin/sh
# Clippy on the code that launches kernels. candle's own kernels, most of whose compilation would be for nothing, are
# left to the stand-in; hence the target folder of its own.
set -eu
cd "$(dirname "$0")/../.."
eval "$(scripts/cuda/toolkit.sh)"
SOFTPOOL_NVCC=$(command -v nvcc || echo "$CUDA_HOME/bin/nvcc")
export SOFTPOOL_NVCC
export NVCC=$PWD/scripts/cuda/stand-in/nvcc PATH="$PWD/scripts/cuda/stand-in:$PATH"
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}"
cargo clippy --locked --features cuda --all-targets --target-dir target/cuda-clippy -- -D warnings
