#!/bin/sh
# Rust for WebAssembly and Arm, from Debian sid's packages, where rustup may have no targets to offer: unpacked into a
# cache folder that stays, run by their own loader, so that any Debian on x86-64 can run them, as any user. Prints what
# to export:
#     eval "$(scripts/other-targets/toolchain.sh)"
# Where that cannot be had, fails with a line that says why.
set -eu
cache=${XDG_CACHE_HOME:-$HOME/.cache}/candle-softpool
folder=$cache/sid
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
packages="rustc lld binaryen libstd-rust-dev libstd-rust-dev-wasm32 libstd-rust-dev:arm64"

fail() {
    echo "Debian sid's Rust cannot be had: $*" >&2
    exit 1
}

# A state of apt's own, in which nothing is installed.
configure() {
    mkdir -p "$1/lists/partial" "$1/archives/partial"
    : > "$1/status"
    # Older snapshots of a mirror are welcome.
    echo "deb [signed-by=$keyring check-valid-until=no] $mirror sid main" > "$1/sources.list"
    cat > "$1/apt.conf" <<CONF
Dir::Etc::sourcelist "$1/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$1";
Dir::State::status "$1/status";
Dir::Cache "$1";
APT::Architectures { "amd64"; "arm64"; };
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Debug::NoLocking "true";
CONF
}

unpack() {
    for deb in "$1"/archives/*.deb; do
        case ${deb##*/} in
            libstd-rust-dev_*_arm64.deb) ;;
            # Linking is left to the machine's own compilers.
            *_arm64.deb | gcc-* | cpp-* | binutils* | lib*san* | linux-libc-dev*) continue ;;
        esac
        dpkg-deb --extract "$deb" "$2"
    done
}

# A program of the packages with their loader and libraries; its further arguments come before the caller's.
wrap() {
    name=$1 program=$2
    shift 2
    cat > "$new/bin/$name" <<WRAP
#!/bin/sh
usr=\$(dirname "\$(readlink -f "\$0")")/../packages/usr
exec "\$usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "\$usr/lib/x86_64-linux-gnu" "\$usr/$program" $* "\$@"
WRAP
    chmod +x "$new/bin/$name"
}

bring() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null && [ -e "$keyring" ] || fail "this is not Debian"
    [ "$(uname -m)" = x86_64 ] || fail "this is not x86-64"
    mkdir -p "$cache"
    new=$(mktemp -d "$cache/sid.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    configure "$new/apt"
    export APT_CONFIG="$new/apt/apt.conf"
    apt-get -qq update >&2 || fail "apt-get update failed, of $mirror"
    # shellcheck disable=SC2086
    apt-get -qq --yes --download-only install $packages >&2 || fail "apt-get cannot download $packages"
    unpack "$new/apt" "$new/packages"
    mkdir "$new/bin"
    wrap rustc bin/rustc --sysroot '"$usr"'
    wrap wasm-ld "$(cd "$new/packages/usr" && echo lib/llvm-*/bin/wasm-ld)"
    wrap wasm-opt bin/wasm-opt
    "$new/bin/rustc" --version >&2 || fail "it does not run here"
    rm -rf "$new/apt"
    # Of two that bring it at once, the second finds it done.
    mv -T "$new" "$folder" 2>/dev/null || [ -x "$folder/bin/rustc" ] || fail "$folder is in the way"
}

[ -x "$folder/bin/rustc" ] || bring
cat <<EXPORTS
export RUSTC='$folder/bin/rustc' PATH='$folder/bin':"\$PATH"
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER='$folder/bin/wasm-ld' CARGO_TARGET_WASM32_WASIP1_LINKER='$folder/bin/wasm-ld'
EXPORTS
