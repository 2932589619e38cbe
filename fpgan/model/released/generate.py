"""Makes images with this instance: python generate.py --seeds 0-15 --out images

Needs NumPy and Pillow, and onnxruntime (generator.onnx) or JAX with flatbuffers and safetensors (generator.stablehlo).
The seed alone decides the image; both runtimes give the same ones, to a grey level.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
# Giles, "Approximating the erfinv function" (GPU Computing Gems, 2011): for w < 5, and from there on.
CENTRAL = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
           0.246640727, 1.50140941)
TAIL = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
        1.00167406, 2.83297682)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0-15", help="such as 7, or 0-15: numbers from 0 to 4294967295")
    parser.add_argument("--out", default="images", help="folder for PNG files")
    parser.add_argument("--runtime", choices=("onnx", "stablehlo"), help="default: the first that is there")
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    seeds = list(range(int(first), int(last or first) + 1))
    Path(args.out).mkdir(parents=True, exist_ok=True)
    generator = read_config()
    run = runner(args.runtime)
    for start in range(0, len(seeds), args.batch_size):
        batch = seeds[start:start + args.batch_size]
        for seed, image in zip(batch, to_uint8(run(*inputs(batch, generator))), strict=True):
            Image.fromarray(image.squeeze()).save(Path(args.out) / f"{seed:010d}.png")
    print(f"{len(seeds)} images: {args.out}")


def read_config():
    """Returns the sizes of the generator's inputs and layers."""
    return json.loads((HERE / "config.json").read_text())["generator"]


def runner(name: str | None = None):
    """Returns f(latents[, noise]) -> images float32 [N, R, R, C] in [-1, 1], by one of the two runtimes."""
    if name is None:
        try:
            import onnxruntime  # noqa: F401
            name = "onnx" if (HERE / "generator.onnx").exists() else "stablehlo"
        except ImportError:
            name = "stablehlo"
    if name == "onnx":
        import onnxruntime
        session = onnxruntime.InferenceSession(str(HERE / "generator.onnx"))
        names = [each.name for each in session.get_inputs()]
        return lambda *arrays: session.run(["images"], dict(zip(names, arrays, strict=True)))[0]
    from jax import export
    from safetensors.numpy import load_file
    program = export.deserialize(bytearray((HERE / "generator.stablehlo").read_bytes()))
    weights = load_file(HERE / "generator.safetensors")
    return lambda *arrays: np.asarray(program.call(weights, *arrays))


def inputs(seeds: Sequence[int], generator: dict):
    """Draws what the generator takes: latents [N, size] and, if it has random noise, noise [N, all layers' pixels]."""
    latents, noise = [], []
    for seed in seeds:
        latent_key, noise_key = children((0, seed))
        latents.append(normal(latent_key, generator["latent_size"]))
        if generator["noise"] == "random":
            maps = layers(generator["resolution"])
            noise.append(np.concatenate([normal(cipher(noise_key, [0], [number]), size**2) for number, size in maps]))
    return (np.stack(latents), np.stack(noise)) if noise else (np.stack(latents),)


def layers(resolution: int):
    """Returns number and size of the noise map of each layer, in order."""
    sizes = [2**k for k in range(2, resolution.bit_length())]
    return [(4, 4)] + [(size + i, size) for size in sizes[1:] for i in (0, 1)]


def to_uint8(images: np.ndarray):
    """Turns [-1, 1] into grey levels 0 ... 255."""
    return np.clip(np.floor(np.asarray(images, np.float32) * np.float32(127.5) + np.float32(128)), 0, 255).astype(np.uint8)


def children(key: Sequence[int | np.uint32]):
    """Splits a key in two."""
    high, low = cipher(key, [0, 0], [0, 1])
    return (high[0], low[0]), (high[1], low[1])


def normal(key: Sequence[int | np.uint32], count: int):
    """Draws float32 [count] of N(0, 1) from a key, as jax.random.normal does (threefry, partitionable)."""
    high, low = cipher([np.uint32(part) for part in np.ravel(key)], np.zeros(count), np.arange(count))
    bits = (high ^ low) >> np.uint32(9) | np.uint32(0x3F800000)
    low, high = np.nextafter(np.float32(-1), np.float32(0)), np.float32(1)
    x = np.maximum(low, (bits.view(np.float32) - np.float32(1)) * (high - low) + low)  # uniform in (-1, 1)
    w = -np.log1p(-x * x)
    with np.errstate(invalid="ignore"):
        central, tail = polynomial(CENTRAL, w - np.float32(2.5)), polynomial(TAIL, np.sqrt(w) - np.float32(3))
    return np.float32(np.sqrt(2)) * np.where(w < 5, central, tail) * x


def polynomial(coefficients: Sequence[float], x: np.ndarray):
    """Evaluates a polynomial, the highest power first."""
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + np.float32(coefficient)
    return value


def cipher(key: Sequence[int | np.uint32], high: Sequence[int] | np.ndarray, low: Sequence[int] | np.ndarray):
    """Encrypts pairs of 32-bit numbers: Threefry-2x32, 20 rounds (Salmon et al., 2011). Two arrays of uint32."""
    key = [int(part) for part in np.ravel(key)]
    keys = [np.uint32(part) for part in (key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA)]
    x, y = np.asarray(high).astype(np.uint32) + keys[0], np.asarray(low).astype(np.uint32) + keys[1]
    for group in range(5):
        for distance in (13, 15, 26, 6) if group % 2 == 0 else (17, 29, 16, 24):
            x = x + y
            y = (y << np.uint32(distance) | y >> np.uint32(32 - distance)) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


if __name__ == "__main__":
    main()
