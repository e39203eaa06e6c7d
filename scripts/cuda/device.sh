#!/bin/sh
# The tests on candle's CUDA device, without a GPU: tests/cuda/driver stands in for NVIDIA's driver, and interprets the
# PTX of our kernels and of candle's.
#     scripts/cuda/device.sh           all of them
#     scripts/cuda/device.sh TEST...   these files of tests/
set -eu
cd "$(dirname "$0")/../.."
. scripts/cuda/stand-in/env.sh
driver=$PWD/target/cuda-driver
tests/cuda/driver/build.sh "$driver"
"$driver/checks"
export LIBRARY_PATH="$driver" LD_LIBRARY_PATH="$driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

tests=${*:-"accuracy composed cuda determinism errors gradients layouts methods models not_finite properties pytorch training"}
chosen=
for test in $tests; do chosen="$chosen --test $test"; done
# shellcheck disable=SC2086
SOFTPOOL_TEST_DEVICE=cuda cargo test --locked --features cuda --target-dir "$target" $chosen
