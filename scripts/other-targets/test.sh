#!/bin/sh
# The tests of the library and of SoftPool as WebAssembly, in wasmtime, and on 64-bit Arm, under qemu. Where rustup
# has not brought these targets, with Debian sid's Rust (toolchain.sh); where that cannot be had, says so and passes.
#     scripts/other-targets/test.sh [TARGET...]
set -eu
cd "$(dirname "$0")/../.."
here=$PWD/scripts/other-targets
targets=${*:-wasm32-wasip1 aarch64-unknown-linux-gnu}

skip() {
    echo "WebAssembly and Arm: skipped. $*"
    exit
}

missing=
python3 -c "import ensurepip" 2>/dev/null || missing="$missing python3-venv"
command -v qemu-aarch64 >/dev/null || missing="$missing qemu-user"
command -v aarch64-linux-gnu-gcc >/dev/null || missing="$missing gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
if [ -n "$missing" ]; then
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get -qq update && apt-get -qq install $missing; } >/dev/null 2>&1 || skip "apt-get cannot install$missing."
fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/candle-softpool
# Not Node, whose version 20 crashes now and then in programs of much memory.
wasmtime=$cache/wasmtime
install() {
    "$wasmtime/bin/pip" --quiet install --requirement "$here/requirements.txt"
}
install 2>/dev/null || { python3 -m venv --clear "$wasmtime" && install; } ||
    skip "PyPI's wasmtime cannot be installed."

for target in $targets; do
    [ -d "$(rustc --print target-libdir --target "$target" 2>/dev/null)" ] && continue
    exports=$("$here/toolchain.sh") || skip "The lines above say why."
    eval "$exports"
    break
done

export CARGO_TARGET_WASM32_WASIP1_RUNNER="$wasmtime/bin/python $here/wasi.py"
export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="-Ctarget-feature=+simd128 --cfg=library_alone"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="--cfg=library_alone"
# Kept from run to run, as the toolchain is: what the library depends on takes longest.
export CARGO_TARGET_DIR="$cache/other-targets"
# Fewer random cases, since emulation is slow. Dependencies are less optimised than usual, since these are few tests, and
# the library more, since that takes less than its tests gain.
export PROPTEST_CASES="${PROPTEST_CASES:-16}"
dependencies='profile.dev.package."*".opt-level=1'
library=profile.dev.opt-level=1

tests="accuracy determinism digits gradients not_finite properties rules"
more="composed errors layouts methods public_face pytorch training"
# Thousands of passes: many minutes under qemu, so that only WebAssembly runs them, and `more`.
slow="any_windows_agree_with_their_definition planes_abreast_have_the_bits_of_planes_alone every_method_agrees_with_its_definition
    halves_are_computed_in_f32_and_rounded_once windows_that_do_not_hold_agree_too negative_windows_and_zeros_agree"
for target in $targets; do
    echo "-- $target"
    skipped= selected="$tests $more"
    [ "$target" = wasm32-wasip1 ] || { skipped=$slow selected=$tests; }
    # shellcheck disable=SC2086
    skipped=${skipped:+$(printf -- '--skip %s ' $skipped)} selected=$(printf -- '--test %s ' $selected)
    echo "selected: --lib $selected; left out: $skipped"
    # What other checkouts left.
    cargo clean --quiet --locked --target "$target" --package candle-softpool
    # shellcheck disable=SC2086
    cargo test --config "$dependencies" --config "$library" --quiet --locked --target "$target" --no-fail-fast --lib $selected -- $skipped
done
