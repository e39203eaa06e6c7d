#!/bin/sh
# NVIDIA's compiler from its Python wheels, where nvcc is missing: into target/cuda-toolkit; prints what to export:
#     exports=$(scripts/cuda/toolkit.sh); eval "$exports"
# Not in one command, which would go on where this fails.
# With the argument `libraries`, those that candle links to as well.
set -eu
cd "$(dirname "$0")/../.."
folder=$PWD/target/cuda-toolkit
home=$folder/nvidia/cu13

if [ "${CUDA_HOME:-$home}" != "$home" ]; then
    exit # There is a toolkit.
fi
if [ -z "${CUDA_HOME:-}" ] && nvcc=$(command -v nvcc); then
    # There is one, of which nothing says where it lies: above its compiler, past links to that.
    echo "export CUDA_HOME='$(dirname "$(dirname "$(readlink -f "$nvcc")")")'"
    exit
fi
packages="nvidia-cuda-nvcc==13.0.* nvidia-cuda-runtime==13.0.* nvidia-cuda-crt==13.0.* nvidia-nvvm==13.0.* nvidia-cuda-cccl==13.0.*"
wanted=$home/bin/nvcc
if [ "${1:-}" = libraries ]; then
    packages="$packages nvidia-cublas==13.0.* nvidia-curand==10.4.0.* nvidia-cuda-nvrtc==13.0.*"
    wanted=$home/lib/libcublas.so
fi
if [ ! -e "$wanted" ]; then
    # All at once: pip replaces the folder that they share.
    # shellcheck disable=SC2086
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder" --upgrade $packages >&2
    # The linker looks for names without a version.
    for library in "$home"/lib/lib*.so.*; do
        ln -sf "$(basename "$library")" "${library%%.so.*}.so"
    done
fi
echo "export CUDA_HOME='$home' CUDA_PATH='$home' PATH='$home/bin':\"\$PATH\""
