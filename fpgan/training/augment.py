"""What the discriminator's images go through so that a few thousand of them suffice: mirroring, and DiffAugment.

Mirroring doubles the real images (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", where it is
`mirror_augment`). DiffAugment (Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training", section 3)
puts real and generated images through the same random operations before each look of the discriminator, also where the
generator learns from it; so the generator does not learn to draw them. The decoder sees images without.
"""

import difflib

import jax
import jax.numpy as jnp

from fpgan.errors import FpganError

_SHIFT, _CUTOUT = 0.125, 0.5  # of the image's side


def parse_policy(text: str) -> tuple[str, ...]:
    """Returns the operations that a text such as "color,translation,cutout" names; none if it is empty.

    Raises:
      FpganError: for an operation that there is not.
    """
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if name not in OPERATIONS:
            near = difflib.get_close_matches(name, OPERATIONS, n=1, cutoff=0)[0]
            raise FpganError(f"augment.policy is {text!r}; expected names of {', '.join(OPERATIONS)}, with commas between "
                             f"them (did you mean {near!r}?)")
    return names


def augment(policy: tuple[str, ...], images: jax.Array, keys: jax.Array) -> jax.Array:
    """Puts every image through the operations of a policy, each by draws of its own.

    Args:
      policy: names of operations, in their order.
      images: float32 [N, R, R, C] in [-1, 1].
      keys: [N] PRNG keys.

    Returns:
      [N, R, R, C]; what an operation uncovers is 0, a middle grey.
    """
    for number, name in enumerate(policy):
        images = jax.vmap(OPERATIONS[name])(images, jax.vmap(jax.random.fold_in, (0, None))(keys, number))
    return images


def mirror(images: jax.Array, keys: jax.Array) -> jax.Array:
    """Mirrors every image [N, H, W, C] from left to right with probability 1/2, by keys [N]."""
    flipped = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def color(image: jax.Array, key: jax.Array) -> jax.Array:
    """Draws brightness in +-1/2, saturation in 0 to 2 and contrast in 1/2 to 3/2 of an image [R, R, C]."""
    brightness, saturation, contrast = jax.random.uniform(key, (3,))
    image = image + brightness - 0.5
    grey = jnp.mean(image, axis=-1, keepdims=True)
    image = grey + 2 * saturation * (image - grey)
    mean = jnp.mean(image)
    return mean + (contrast + 0.5) * (image - mean)


def translation(image: jax.Array, key: jax.Array) -> jax.Array:
    """Moves an image [R, R, C] by up to an eighth of its side, both ways."""
    side, channels = image.shape[0], image.shape[-1]
    most = int(side * _SHIFT + 0.5)
    y, x = jax.random.randint(key, (2,), 0, 2 * most + 1)
    padded = jnp.pad(image, ((most, most), (most, most), (0, 0)))
    return jax.lax.dynamic_slice(padded, (y, x, 0), (side, side, channels))


def cutout(image: jax.Array, key: jax.Array) -> jax.Array:
    """Covers a square of half the side, whose middle lies anywhere in an image [R, R, C]."""
    side = image.shape[0]
    size = int(side * _CUTOUT + 0.5)
    start = jax.random.randint(key, (2,), 0, side + 1 - size % 2) - size // 2
    place = jnp.arange(side)[:, None] - start  # [R, 2]
    inside = (place >= 0) & (place < size)
    return jnp.where((inside[:, None, 0] & inside[None, :, 1])[:, :, None], 0.0, image)


OPERATIONS = {"color": color, "translation": translation, "cutout": cutout}
