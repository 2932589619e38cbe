"""The layers of fpgan's networks in plain PyTorch, to be timed from another process (`fpgan bench layers --torch PYTHON`).

    python torch_layers.py FOLDER LAYER...

Runs in an environment of the user's with torch and numpy, and imports nothing of fpgan. Prints one line of JSON: version,
layouts of memory, and the norms of each layer's output and gradients. Then it computes, for each line "LAYER WAY LAYOUT" of
its input, that layer once, and answers with an empty line.
"""

import json
import os
import sys
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def fir(x: torch.Tensor, pad: int, gain: float = 1.0) -> torch.Tensor:
    """Filters every channel with outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64 times a gain: a depthwise convolution."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return F.conv2d(x, (gain * torch.outer(taps, taps)).repeat(x.shape[1], 1, 1, 1), padding=pad, groups=x.shape[1])


def conv(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Convolves with borders that keep the size. Kernels here and below are [O, I, k, k]."""
    return F.conv2d(x, kernel, padding=kernel.shape[2] // 2)


def conv_up(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Doubles height and width: transposed convolution, which turns its kernel, then the filter."""
    return fir(F.conv_transpose2d(x, kernel.flip(2, 3).transpose(0, 1), stride=2), 1, 4.0)


def conv_down(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Halves height and width: the filter, then a convolution of stride 2."""
    return F.conv2d(fir(x, (kernel.shape[2] + 1) // 2), kernel, stride=2)


FUNCTIONS = {"conv": conv, "conv_up": conv_up, "conv_down": conv_down, "skip": conv_down}


def arrays(folder: str, name: str, layout: torch.memory_format) -> list[torch.Tensor]:
    """Reads input, kernel and the gradient to the output, as PyTorch wants them."""
    found = np.load(os.path.join(folder, f"{name}.npz"))
    x, outer = (torch.from_numpy(found[part]).permute(0, 3, 1, 2) for part in ("x", "outer"))
    kernel = torch.from_numpy(found["kernel"]).permute(3, 2, 0, 1)
    x, kernel, outer = (part.contiguous(memory_format=layout) for part in (x, kernel, outer))
    return [x.requires_grad_(), kernel.requires_grad_(), outer]


def compute(function: Callable, x: torch.Tensor, kernel: torch.Tensor, outer: torch.Tensor, way: str) -> list[torch.Tensor]:
    """Computes the output and, unless `way` is "forward", the gradients."""
    if way == "forward":
        with torch.no_grad():
            return [function(x, kernel)]
    output = function(x, kernel)
    return [output, *torch.autograd.grad(output, (x, kernel), outer)]


def main(folder: str, *names: str) -> None:
    """Computes everything once, then what is asked for."""
    inputs = {(name, layout): arrays(folder, name, LAYOUTS[layout]) for name in names for layout in LAYOUTS}
    norms = {name: [float(part.norm()) for part in compute(FUNCTIONS[name], *inputs[name, "NCHW"], "gradients")]
             for name in names}
    print(json.dumps({"version": torch.__version__, "layouts": list(LAYOUTS), "norms": norms}), flush=True)
    for line in sys.stdin:
        name, way, layout = line.split()
        compute(FUNCTIONS[name], *inputs[name, layout], way)
        print(flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
