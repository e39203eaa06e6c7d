#!/bin/sh
# Builds and assembles cuda/softpool.cu for every GPU generation that the compiler knows; prints each kernel's registers;
# fails where a kernel spills or uses local memory. Needs no GPU, but many minutes: cuda/registers.txt keeps the registers
# beside a digest of what they were counted from, and while that is the same, nothing is built. Of other kernels, it is out
# of date, and this fails at once; by another compiler, they are built and assembled, and the file is left as it is.
#     scripts/cuda/kernels.sh [--update]   with --update, builds and writes cuda/registers.txt
set -eu
cd "$(dirname "$0")/../.."
exports=$(scripts/cuda/toolkit.sh)
eval "$exports"
nvcc=$(command -v nvcc || echo "$CUDA_HOME/bin/nvcc")
ptxas=$(command -v ptxas || echo "$CUDA_HOME/bin/ptxas")
options="-std=c++17 -O3 -ptx"
# A generation's PTX, and the generations that it is assembled for: the compiler's PTX for 8.9 is that for 8.0 to the
# letter, and that for 12.0 is that for 10.0.
builds="70:70 75:75 80:80,89 90:90 100:100,120"

kernels() { echo "$options $builds"; cat cuda/softpool.cu kernels/*.h; }
digest() { sha256sum | cut -d' ' -f1; }
of_kernels=$(kernels | digest)
of_all=$({ "$nvcc" --version; kernels; } | digest)
if [ "${1:-}" != --update ]; then
    if grep -q "$of_all" cuda/registers.txt; then
        sed 1d cuda/registers.txt
        echo "cuda/registers.txt is of these kernels: nothing to build"
        exit
    fi
    grep -q "$of_kernels" cuda/registers.txt || { echo "cuda/registers.txt is of other kernels: run with --update"; exit 1; }
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
known=$("$nvcc" --list-gpu-arch)
running=
for build in $builds; do
    generation=${build%:*}
    if ! echo "$known" | grep -qx "compute_$generation"; then
        echo "this compiler does not know sm_$generation"
        continue
    fi
    {
        # shellcheck disable=SC2086
        "$nvcc" $options -arch="compute_$generation" -o "$out/$generation.ptx" cuda/softpool.cu
        for assembled in $(echo "${build#*:}" | tr , ' '); do
            "$ptxas" -v -arch="sm_$assembled" -o "$out/$assembled.cubin" "$out/$generation.ptx" 2>"$out/$assembled.log"
        done
    } &
    running="$running $!"
done
for one in $running; do wait "$one"; done

# Lines of ptxas: "Compiling entry function 'NAME' for ...", "N bytes stack frame, N bytes spill stores, ...", "Used N registers, ...".
generations=$(cd "$out" && ls ./*.log | tr -dc '0-9\n' | sort -n | tr '\n' ' ')
awk -v generations="$generations" '
    FNR == 1 { n = split(FILENAME, path, "/"); generation = path[n]; sub(/\.log$/, "", generation) }
    /Compiling entry function/ { split($0, quoted, "\047"); name = quoted[2]; if (!(name in seen)) { names[++count] = name; seen[name] } }
    /bytes stack frame/ { if ($1 + $5 + $9 > 0) spills[++bad] = name " on sm_" generation ": " $0 }
    /Used [0-9]+ registers/ { match($0, /Used [0-9]+/); registers[name, generation] = substr($0, RSTART + 5, RLENGTH - 5); total++ }
    END {
        n = split(generations, columns, " ")
        printf "%-28s", "registers"
        for (c = 1; c <= n; c++) printf "%8s", "sm_" columns[c]
        for (i = count; i >= 1; i--) {
            printf "\n%-28s", names[i]
            for (c = 1; c <= n; c++) printf "%8s", registers[names[i], columns[c]]
        }
        printf "\n%d kernels assembled, %d spill or use local memory\n", total, bad
        for (i = 1; i <= bad; i++) print "spills or local memory: " spills[i]
        exit bad > 0 || total == 0 || total != count * n
    }' "$out"/*.log >"$out/registers" || { cat "$out/registers"; exit 1; }
cat "$out/registers"
if [ "${1:-}" = --update ]; then
    { echo "sha256 of compiler, options and kernels: $of_all; without the compiler: $of_kernels"; cat "$out/registers"; } >cuda/registers.txt
else
    echo "cuda/registers.txt is by another compiler: nothing is compared with it"
fi
