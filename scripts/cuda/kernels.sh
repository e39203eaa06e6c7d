#!/bin/sh
# Builds and assembles cuda/softpool.cu for every GPU generation that the compiler knows; prints each kernel's registers;
# fails where a kernel spills or uses local memory. Needs no GPU.
set -eu
cd "$(dirname "$0")/../.."
eval "$(scripts/cuda/toolkit.sh)"
nvcc=$(command -v nvcc || echo "$CUDA_HOME/bin/nvcc")
ptxas=$(command -v ptxas || echo "$CUDA_HOME/bin/ptxas")
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

known=$("$nvcc" --list-gpu-arch)
generations=
running=
for generation in 70 75 80 89 90 100 120; do
    if ! echo "$known" | grep -qx "compute_$generation"; then
        echo "this compiler does not know sm_$generation"
        continue
    fi
    generations="$generations $generation"
    {
        "$nvcc" -std=c++17 -O3 -ptx -arch="compute_$generation" -o "$out/$generation.ptx" cuda/softpool.cu
        "$ptxas" -v -arch="sm_$generation" -o "$out/$generation.cubin" "$out/$generation.ptx" 2>"$out/$generation.log"
    } &
    running="$running $!"
done
for one in $running; do wait "$one"; done

# Lines of ptxas: "Compiling entry function 'NAME' for ...", "N bytes stack frame, N bytes spill stores, ...", "Used N registers, ...".
awk -v generations="$generations" '
    FNR == 1 { n = split(FILENAME, path, "/"); generation = path[n]; sub(/\.log$/, "", generation) }
    /Compiling entry function/ { split($0, quoted, "\047"); name = quoted[2]; if (!(name in seen)) names[++count] = name; seen[name] }
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
        printf "\n%d kernels assembled\n", total
        for (i = 1; i <= bad; i++) print "spills or local memory: " spills[i]
        exit bad > 0 || total == 0 || total != count * n
    }' "$out"/*.log
