#!/usr/bin/env python3
"""Prints C for the calls that the driver does not know: each ends the program and says its name.

A test program links to whatever cudarc and candle-kernels declare, and calls a little of it.
"""

import json
import pathlib
import re
import subprocess

LIBRARIES = ("driver", "runtime", "cublas", "cublaslt", "curand", "nvrtc")

host = re.search("^host: (.*)", subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout, re.M)[1]
metadata = ["cargo", "metadata", "--locked", "--format-version=1", "--features=cuda", f"--filter-platform={host}"]
packages = json.loads(subprocess.run(metadata, check=True, stdout=subprocess.PIPE).stdout)["packages"]
folder = {p["name"]: pathlib.Path(p["manifest_path"]).parent / "src" for p in packages}
sources = [folder["cudarc"] / library / "sys" / "mod.rs" for library in LIBRARIES]
sources.append(folder["candle-kernels"] / "ffi.rs")
foreign = re.compile(r'extern "C" \{(.*?)\n *\}', re.DOTALL)
blocks = [block for source in sources for block in foreign.findall(source.read_text())]
names = sorted({name for block in blocks for name in re.findall(r"\bfn (\w+)\(", block)})

print("#include <stdio.h>\n#include <stdlib.h>")
print('static void unknown(const char* name) { fprintf(stderr, "CUDA driver of the tests: no %s\\n", name); abort(); }')
for name in names:
    print(f'__attribute__((weak)) void {name}(void) {{ unknown("{name}"); }}')
