#!/bin/sh
# Tests and times SoftPool on a GPU.
#     scripts/cuda/gpu.sh build           anywhere: the tests and the benchmark as binaries, in target/cuda-gpu.tar.xz
#     scripts/cuda/gpu.sh run [STAGE...]  where the GPU is, in the same tree: the tests on CUDA, compute-sanitizer, and the table
#                                         beside PyTorch in target/cuda-table.md; or of these only: tests sanitizer benchmark
# CUDA_COMPUTE_CAP says for which GPU to build (90 by default); later ones run it too.
set -eu
cd "$(dirname "$0")/../.."
bundle=target/cuda-gpu

build() {
    eval "$(scripts/cuda/toolkit.sh libraries)"
    export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}"
    # Without a driver, the linker is given an empty one; the real one is loaded first when running.
    mkdir -p target/cuda-stub
    : | cc -shared -Wl,-soname,libcuda.so.1 -x c - -o target/cuda-stub/libcuda.so
    home=${CUDA_HOME:-$(dirname "$(dirname "$(command -v nvcc)")")}
    export RUSTFLAGS="${RUSTFLAGS:-} -L $PWD/target/cuda-stub -L $home/lib -L $home/lib64 \
-C link-arg=-Wl,--unresolved-symbols=ignore-all -C strip=symbols"
    rm -rf "$bundle"
    mkdir -p "$bundle"
    cargo test --locked --release --features cuda --lib --tests --bench cuda --no-run --target-dir target/cuda-build \
        --message-format json >"$bundle/messages.json"
    python3 - "$bundle" <<'PYTHON'
import json, pathlib, shutil, sys
bundle = pathlib.Path(sys.argv[1])
for line in (bundle / "messages.json").read_text().splitlines():
    message = json.loads(line)
    # These run on the host, whatever the device.
    host = ["emulation", "metal_language", "classify", "train", "preprocess"]
    if message.get("executable") and message["target"]["name"] not in host:
        kind = message["target"]["kind"][0]
        shutil.copy(message["executable"], bundle / f"{kind}-{message['target']['name']}")
PYTHON
    rm "$bundle/messages.json"
    # The binaries are much alike: a dictionary that holds several.
    tar -C target -c cuda-gpu | xz --lzma2=preset=6,dict=256MiB >target/cuda-gpu.tar.xz
    ls -l target/cuda-gpu.tar.xz "$bundle"
}

run() {
    [ -d "$bundle" ] || tar -C target -xJf target/cuda-gpu.tar.xz
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    # The libraries of a toolkit, of scripts/cuda/toolkit.sh, or of a PyTorch.
    wheels=$(python3 -c 'import glob, site, sys
print(":".join(p for d in sys.path + site.getsitepackages() for p in glob.glob(d + "/nvidia/*/lib")))' 2>/dev/null || true)
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}:$PWD/target/cuda-toolkit/nvidia/cu13/lib:/usr/local/cuda/lib64:$wheels"
    export SOFTPOOL_TEST_DEVICE=cuda
    failed=
    for stage in ${*:-tests sanitizer benchmark}; do
        case $stage in
            tests | sanitizer | benchmark) "$stage" ;;
            *) failed="$failed no-such-stage:$stage" ;;
        esac
    done
    [ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
}

tests() {
    for test in "$bundle"/lib-* "$bundle"/test-*; do
        echo "== $test"
        LD_PRELOAD=libcuda.so.1 "$test" || failed="$failed $test"
    done
}

sanitizer() {
    for tool in memcheck initcheck racecheck; do
        for test in composed not_finite; do
            echo "== compute-sanitizer $tool $test"
            PROPTEST_CASES=16 compute-sanitizer --tool "$tool" --target-processes all --error-exitcode 1 \
                sh -c "LD_PRELOAD=libcuda.so.1 $bundle/test-$test --test-threads 1" || failed="$failed $tool:$test"
        done
    done
}

benchmark() {
    echo "== benchmark"
    LD_PRELOAD=libcuda.so.1 python3 benches/cuda/table.py "$bundle/bench-cuda" >target/cuda-table.md || failed="$failed benchmark"
    cat target/cuda-table.md
}

case ${1:-} in
    build) build ;;
    run) shift; run "$@" ;;
    *) echo "usage: $0 build | run [tests] [sanitizer] [benchmark]"; exit 2 ;;
esac
