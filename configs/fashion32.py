r"""Fashion-MNIST at 32x32 with 128 bits, grey photos as RGB: another kind of picture beside the cats.

    fpgan data --config configs/fashion32.py
    fpgan train --config configs/fashion32.py --workdir runs/fashion32
    fpgan export --workdir runs/fashion32 --out models/fashion32

The images are those of Debian's package dataset-fashion-mnist (its folder /usr/share/datasets/fashion-mnist, linked here as
`fashion`), or any copy of the four files of Xiao et al. 2017. Not run here.
"""

from pathlib import Path

from fpgan.training.config import load


def get_config():
    """The recipe of monsters32 on other images."""
    config = load(Path(__file__).with_name("monsters32.py"))
    config.name = "fashion32"
    config.data.update(dict(name="folder", count=0, path="fashion/train-images-idx3-ubyte.gz"))
    return config
