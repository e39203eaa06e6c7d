"""Runs a WASI program in wasmtime, in the current folder: python3 wasi.py PROGRAM [ARGUMENT...]"""

import os
import sys

from wasmtime import Config, Engine, ExitTrap, Linker, Module, Store, WasiConfig

config = Config()
config.cache = True
engine = Engine(config)
linker = Linker(engine)
linker.define_wasi()

wasi = WasiConfig()
wasi.argv = sys.argv[1:]
wasi.env = os.environ.items()
wasi.preopen_dir(".", ".")
wasi.inherit_stdin()
wasi.inherit_stdout()
wasi.inherit_stderr()
store = Store(engine)
store.set_wasi(wasi)

program = linker.instantiate(store, Module.from_file(engine, sys.argv[1]))
try:
    program.exports(store)["_start"](store)
except ExitTrap as exit:
    sys.exit(exit.code)
