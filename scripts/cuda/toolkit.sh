#!/bin/sh
# NVIDIA's compiler from its Python wheels, where nvcc is missing: into target/cuda-toolkit; prints what to export:
#     eval "$(scripts/cuda/toolkit.sh)"
# With the argument `libraries` also the libraries that candle links to.
set -eu
cd "$(dirname "$0")/../.."
release="==13.0.*"
folder=$PWD/target/cuda-toolkit
home=$folder/nvidia/cu13

install() {
    for package in "$@"; do set -- "$@" "$package$release"; shift; done
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder" --upgrade "$@" >&2
}

if [ "${1:-}" = libraries ]; then
    if [ ! -e "$home/lib/libcublas.so" ]; then
        python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder" --upgrade \
            "nvidia-cublas<13.2" "nvidia-curand<10.5" "nvidia-cuda-nvrtc$release" >&2
        # The linker looks for names without a version.
        for library in "$home"/lib/lib*.so.*; do
            ln -sf "$(basename "$library")" "${library%%.so.*}.so"
        done
    fi
fi
if [ -z "${CUDA_HOME:-}" ] && ! command -v nvcc >/dev/null 2>&1; then
    [ -x "$home/bin/nvcc" ] || install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-crt nvidia-nvvm nvidia-cuda-cccl
    echo "export CUDA_HOME='$home' CUDA_PATH='$home' PATH='$home/bin':\"\$PATH\""
fi
