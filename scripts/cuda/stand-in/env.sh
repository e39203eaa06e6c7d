# For scripts that build with the stand-in; to be sourced at the project's root.
exports=$(scripts/cuda/toolkit.sh)
eval "$exports"
SOFTPOOL_NVCC=$(command -v nvcc || echo "$CUDA_HOME/bin/nvcc")
export SOFTPOOL_NVCC
export NVCC=$PWD/scripts/cuda/stand-in/nvcc PATH="$PWD/scripts/cuda/stand-in:$PATH"
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}"
# A folder of its own, lest a build for a GPU takes the stand-in's files for candle's kernels. Where none is made, the
# usual folder saves compiling all other dependencies again.
target=${SOFTPOOL_CUDA_TARGET:-target/cuda}
