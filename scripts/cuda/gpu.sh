#!/bin/sh
# Tests and times SoftPool on a GPU.
#     scripts/cuda/gpu.sh build           anywhere: the tests and the benchmark as binaries, in target/cuda-gpu.tar.gz
#     scripts/cuda/gpu.sh run [STAGE...]  where the GPU is, in the same tree: the tests on CUDA, compute-sanitizer, and the table
#                                         beside PyTorch in target/cuda-table.md; or of these only: tests sanitizer benchmark
# CUDA_COMPUTE_CAP says for which GPU to build (90 by default); later ones run it too.
set -eu
cd "$(dirname "$0")/../.."
bundle=target/cuda-gpu

build() {
    exports=$(scripts/cuda/toolkit.sh libraries)
    eval "$exports"
    export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}"
    # Without a driver, the linker is given an empty one; binaries name it all the same, and load the real one.
    mkdir -p target/cuda-stub
    : | cc -shared -Wl,-soname,libcuda.so.1 -x c - -o target/cuda-stub/libcuda.so
    export RUSTFLAGS="${RUSTFLAGS:-} -L $PWD/target/cuda-stub -L $CUDA_HOME/lib -L $CUDA_HOME/lib64 \
-C link-arg=-Wl,--no-as-needed,-lcuda -C link-arg=-Wl,--unresolved-symbols=ignore-all -C strip=symbols"
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
    host = ["emulation", "metal_language", "classify", "train", "upscale", "downsample", "preprocess", "public_face", "weights"]
    if message.get("executable") and message["target"]["name"] not in host:
        kind = message["target"]["kind"][0]
        shutil.copy(message["executable"], bundle / f"{kind}-{message['target']['name']}")
PYTHON
    rm "$bundle/messages.json"
    tar -C target -czf target/cuda-gpu.tar.gz cuda-gpu
    ls -l target/cuda-gpu.tar.gz "$bundle"
}

run() {
    [ -d "$bundle" ] || tar -C target -xzf target/cuda-gpu.tar.gz
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    # The libraries of a toolkit, of scripts/cuda/toolkit.sh, or of a PyTorch.
    wheels=$(python3 -c 'import glob, site, sys
print(":".join(p for d in sys.path + site.getsitepackages() for p in glob.glob(d + "/nvidia/*/lib")))' 2>/dev/null || true)
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}:$PWD/target/cuda-toolkit/nvidia/cu13/lib:/usr/local/cuda/lib64:$wheels"
    export SOFTPOOL_TEST_DEVICE=cuda
    failed=
    summary=
    for stage in ${*:-tests sanitizer benchmark}; do
        case $stage in
            tests | sanitizer | benchmark) "$stage" ;;
            *) failed="$failed no-such-stage:$stage" ;;
        esac
    done
    printf '%s' "$summary"
    [ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
}

# A name and a command, which gets ten minutes; what became of it is a line at the end.
attempt() {
    name=$1
    shift
    echo "== $name"
    start=$(date +%s)
    status=0
    timeout 600 "$@" || status=$?
    case $status in
        0) outcome=passed ;;
        124) outcome="ran out of time" ;;
        *) outcome="failed, exit status $status" ;;
    esac
    [ "$status" = 0 ] || failed="$failed $name"
    summary="$summary$name: $outcome, $(($(date +%s) - start)) s
"
}

tests() {
    for test in "$bundle"/lib-* "$bundle"/test-*; do attempt "$(basename "$test")" "$test"; done
}

sanitizer() {
    for tool in memcheck initcheck racecheck synccheck; do
        for test in composed not_finite rules; do
            attempt "$tool:$test" env PROPTEST_CASES=16 compute-sanitizer --tool "$tool" --target-processes all \
                --error-exitcode 1 "$bundle/test-$test" --test-threads 1
        done
    done
}

benchmark() {
    # shellcheck disable=SC2086
    attempt benchmark python3 benches/cuda/table.py "$bundle/bench-cuda" --output target/cuda-table.md ${SOFTPOOL_TABLE_ARGS:-}
    cat target/cuda-table.md
}

case ${1:-} in
    build) build ;;
    run) shift; run "$@" ;;
    *) echo "usage: $0 build | run [tests] [sanitizer] [benchmark]"; exit 2 ;;
esac
