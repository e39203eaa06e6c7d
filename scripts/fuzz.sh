#!/bin/sh
# Fuzzes with AddressSanitizer, each target for so many seconds (60), from the corpus that is committed; what is found
# besides stays in a cache. Where it cannot be done, says why in a line and passes.
# The committed corpus is what some minutes of fuzzing reached, cut down to inputs that together reach all of its code:
# a target's own program with -set_cover_merge=1 -use_counters=0 TO FROM, for weights of files below 400 bytes.
#     scripts/fuzz.sh [SECONDS]
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/candle-softpool
target=x86_64-unknown-linux-gnu

skip() {
    echo "fuzzing: skipped, $*"
    exit
}

[ "$(uname -sm)" = "Linux x86_64" ] || skip "it is set up for x86-64 Linux alone"
[ -e "$(rustc --print target-libdir)/librustc-stable_rt.asan.a" ] ||
    [ -e "$(rustc --print target-libdir)/librustc-nightly_rt.asan.a" ] || skip "this Rust has no AddressSanitizer"
command -v c++ >/dev/null || skip "libFuzzer needs a C++ compiler"
if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install --quiet --locked cargo-fuzz || skip "cargo-fuzz cannot be installed"
fi

# Kept from run to run: what the crate depends on takes longest. Flags that nightly has are taken from the stable Rust.
# One codegen unit a crate, which is what cargo-fuzz asks for, would take one core all of the time.
export CARGO_TARGET_DIR="$cache/fuzz" RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Ccodegen-units=16"
for fuzzed in geometry weights; do
    printf '%s\n' "-- $fuzzed"
    mkdir -p "$cache/corpus/$fuzzed"
    seeds="fuzz/corpus/$fuzzed"
    [ "$fuzzed" = geometry ] || seeds="$seeds tests/fixtures/checkpoints"
    # The first folder takes what is new. A leak, or an allocation of half the memory, is an error, too.
    # shellcheck disable=SC2086
    cargo fuzz run --target "$target" "$fuzzed" "$cache/corpus/$fuzzed" $seeds -- \
        -max_total_time="$seconds" -timeout=60 -rss_limit_mb=4096 -verbosity=0 -print_final_stats=1
done
