#!/bin/sh
# Builds the driver into a folder, under the names of the libraries that it stands for:
#     tests/cuda/driver/build.sh FOLDER
# Its own tests come with it, as `checks`. CUDA_HOME has NVIDIA's headers.
set -eu
cd "$(dirname "$0")"
folder=$1
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
python3 stubs.py >"$objects/stubs.c"
sources="driver.cpp cublas.cpp curand.cpp memory.cpp report.cpp ptx/parse.cpp ptx/instructions.cpp ptx/machine.cpp ptx/run.cpp checks.cpp"
running=
for source in $sources "$objects/stubs.c"; do
    case $source in
        *.c) compile="${CC:-cc} -O1" ;;
        # Unlike GPUs' code, the interpreter must fuse nothing by itself.
        *) compile="${CXX:-c++} -std=c++17 -O2 -march=native -ffp-contract=off -Wall -Wextra -Werror -isystem $CUDA_HOME/include" ;;
    esac
    $compile -fPIC -c "$source" -o "$objects/$(basename "$source").o" &
    running="$running $!"
done
for one in $running; do wait "$one"; done
mkdir -p "$folder"
"${CXX:-c++}" "$objects"/*.o -o "$folder/checks"
rm "$objects/checks.cpp.o"
"${CXX:-c++}" -shared -Wl,-soname,libcuda.so.1 "$objects"/*.o -o "$folder/libcuda.so.1"
for library in cuda cublas cublasLt cudart curand nvrtc; do ln -sf libcuda.so.1 "$folder/lib$library.so"; done
