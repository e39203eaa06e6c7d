#!/bin/sh
# The tests on candle's CUDA device, without a GPU: tests/cuda/driver stands in for NVIDIA's driver, and interprets the
# PTX of our kernels and of candle's.
#     scripts/cuda/device.sh                     all of them, the driver's own first, then the benchmark's cases and the counts
#     scripts/cuda/device.sh TEST...             these files of tests/
#     scripts/cuda/device.sh counts [--update]   instructions by kernel, against bench/cuda-instructions.json
set -eu
cd "$(dirname "$0")/../.."
. scripts/cuda/stand-in/env.sh
driver=$PWD/target/cuda-driver
# A distribution's headers lie in /usr/include, where the compiler looks anyway; naming that folder hides the standard
# library's.
headers=$CUDA_HOME
[ "$headers" != /usr ] || headers=
CUDA_HOME=$headers tests/cuda/driver/build.sh "$driver"
export LIBRARY_PATH="$driver" LD_LIBRARY_PATH="$driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" SOFTPOOL_TEST_DEVICE=cuda

run() { cargo test --locked --no-fail-fast --features cuda --target-dir "$target" "$@"; }

tests() {
    chosen=
    for test; do chosen="$chosen --test $test"; done
    # shellcheck disable=SC2086
    run $chosen
}

counts() {
    run --quiet --test cuda --no-run
    python3 scripts/cuda/instructions.py "$@" -- \
        cargo test --quiet --locked --features cuda --target-dir "$target" --test cuda -- --ignored --exact counted
}

case ${1:-} in
    counts) shift; counts "$@" ;;
    "")
        "$driver/checks"
        tests accuracy composed cuda determinism errors extremes gradients layouts methods models not_finite properties pytorch rules training
        run --bench cuda -- --smoke
        counts
        ;;
    *) tests "$@" ;;
esac
