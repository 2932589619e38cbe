r"""Your own images, from a folder or a zip file, at 128x128 with the paper's networks and a bits-first curriculum.

    fpgan data --config configs/folder.py data.path=photos
    fpgan train --config configs/folder.py --workdir runs/mine data.path=photos

A zip file will do as well, and for another size set network.resolution, for both commands. For a few thousand images add, to
the second, augment.mirror=true augment.policy=color,translation,cutout; if each subfolder of photos is a class, of which
there are 12, network.label_size=12. Meant for one GPU. Not run here at this size.
"""

from fpgan.training.config import default


def get_config():
    """The paper's networks, a linear mapping, and the curriculum that gets 128 bits off the ground."""
    config = default()
    config.name = "folder"
    config.data.update(dict(name="folder", crop="center"))
    config.network.update(dict(mapping_layers=1, mapping_lr_multiplier=1.0, bit_coding="plus_minus_one", noise="learned",
                               decoder_features=1024))
    config.objective.update(dict(quantize=True, out_of_range=1.0, coarse_consistency=40.0, r1_gamma=10.0))
    config.curriculum.update(dict(bits_first=True))
    config.total_images = 5_000_000
    return config
