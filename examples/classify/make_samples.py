#!/usr/bin/env python3
"""Makes the samples from the IDX files of examples/train/digits.py: needs numpy and Pillow.

    python3 examples/classify/make_samples.py [data/digits]

digit-N.png is the first held-out digit of class N, as it is. paper.jpg is the second held-out 5, enlarged as dark ink on
unevenly lit paper with grain: what a photograph looks like, though it is none.
"""
import pathlib
import sys

import numpy as np
from PIL import Image

data = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "data/digits")
samples = pathlib.Path(__file__).parent / "samples"
samples.mkdir(exist_ok=True)
images = np.frombuffer((data / "t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8).reshape(-1, 28, 28)
labels = np.frombuffer((data / "t10k-labels-idx1-ubyte").read_bytes()[8:], np.uint8)
for digit in range(10):
    Image.fromarray(images[labels == digit][0]).save(samples / f"digit-{digit}.png", optimize=True)

ink = np.asarray(Image.fromarray(images[labels == 5][1]).resize((300, 300), Image.BICUBIC), float) / 255
ink = np.pad(ink, ((40, 20), (130, 50)))
y, x = np.mgrid[: ink.shape[0], : ink.shape[1]] / max(ink.shape)
light = 225 - 45 * x - 30 * y + np.random.default_rng(0).normal(0, 5, ink.shape)
paper = light[..., None] * [1.0, 0.97, 0.88] * (1 - ink[..., None] * [0.85, 0.82, 0.6])
Image.fromarray(paper.clip(0, 255).astype(np.uint8)).save(samples / "paper.jpg", quality=85)
