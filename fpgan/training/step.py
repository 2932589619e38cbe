"""The phases of a training step, as pure per-device functions.

    generator       adversarial, latent, fingerprint and consistency terms -> generator and decoder; moving averages
    path_length     path length regularisation -> generator, every few steps
    discriminator   logistic loss -> discriminator
    r1              gradient penalty on real images -> discriminator, every few steps

A phase takes the state and the images and returns the new state and scalars to log. It sees one device's share of the
batch; means over the whole batch are taken with `lax.pmean` over the axis AXIS, which devices.py maps over devices.
Every random draw is keyed by (seed, step, phase, global sample index), so neither the number of devices nor an
interruption changes a run.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
from jax import lax

from fpgan.data.shuffle import shuffled_index
from fpgan.distributed.devices import AXIS
from fpgan.networks.config import NetworkConfig
from fpgan.networks.decoder import Decoder
from fpgan.networks.discriminator import Discriminator
from fpgan.networks.generator import Generator
from fpgan.networks.levels import quantize, to_float
from fpgan.perturbations.sampling import parse_ranges, perturb
from fpgan.training import losses
from fpgan.training.augment import augment, mirror, parse_policy
from fpgan.training.config import architecture
from fpgan.training.state import (
    TrainState,
    advance_curriculum,
    apply_gradients,
    image_ramp,
    latent_scale,
    perturbation_level,
    update_averages,
)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a step.

    Attributes:
      name: of the phase.
      interval: number of steps between its turns.
      run: (state, images) -> (state, scalars).
      trains: the networks whose parameters it moves, and whose gradients it averages over the devices.
      stream: number of the stream that its random inputs come from; it never changes, so that runs go on to the same bits.
      image_terms: whether it runs while the curriculum lets the image terms in (True), while it holds them back (False),
        or always (None). The host picks: on a CPU, convolutions inside `lax.cond` run ten times slower.
    """

    name: str
    interval: int
    run: Callable
    trains: tuple[str, ...] = ()
    stream: int = 0
    image_terms: bool | None = None


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all phases share: config, samples per device, and whether `images` is the whole data set."""

    config: object
    device_batch: int
    resident: bool

    @functools.cached_property
    def network(self) -> NetworkConfig:
        """The architecture."""
        return architecture(self.config)


def phases(config: ml_collections.ConfigDict, device_batch: int, resident: bool) -> tuple[Phase, ...]:
    """Returns the phases of a step in their order.

    Args:
      config: the training config.
      device_batch: samples per device.
      resident: True if the phases get the whole data set, uint8 [size, R, R, 3], and pick their images themselves; False
        if they get the device's share of the batch, uint8 [device_batch, R, R, 3]. With classes (network.label_size), a
        pair of that and int32 [size] or [device_batch].
    """
    setup = Setup(config, device_batch, resident)
    o = config.objective

    def phase(name, interval, function, trains, stream, image_terms=True):
        return Phase(name, interval, functools.partial(function, setup, stream), trains, stream, image_terms)

    bits = functools.partial(generator_phase, image_terms=False)  # never in one step with "generator", whose stream it takes
    listed = [phase("generator", 1, generator_phase, ("generator", "decoder"), 0)]
    listed += [phase("bits", 1, bits, ("generator", "decoder"), 0, False)] if config.curriculum.bits_first else []
    listed += [phase("path_length", o.path_length_interval, path_length_phase, ("generator",), 1)] if o.path_length else []
    listed += [phase("discriminator", 1, discriminator_phase, ("discriminator",), 2)]
    listed += [phase("r1", o.r1_interval, r1_phase, ("discriminator",), 3)] if o.r1_gamma else []
    return tuple(listed)


def generator_phase(setup: Setup, stream: int, state: TrainState, images: jax.Array, *,
                    image_terms: bool = True) -> tuple[TrainState, dict]:
    """Updates generator and decoder on the main objective, with or without its image terms; averages; curriculum."""
    del images
    inputs = draw_inputs(setup, state, stream, setup.device_batch)
    ramp, level = image_ramp(state), perturbation_level(state)

    def objective(params):
        terms = generator_terms(setup, params, state.params["discriminator"], inputs, image_terms, level)
        weights = term_weights(setup.config, ramp)
        return sum(weights[name] * jnp.mean(terms[name]) for name in weights if name in terms), terms

    trained = {name: state.params[name] for name in ("generator", "decoder")}
    gradients, terms = jax.grad(objective, has_aux=True)(trained)
    scalars = lax.pmean({name: jnp.mean(value) for name, value in terms.items()}, AXIS)
    state = apply_gradients(setup.config, state, lax.pmean(gradients, AXIS))
    state = update_averages(setup.config, state)
    state = advance_curriculum(setup.config, state, scalars["accuracy"])
    return state, scalars | {"progress": state.progress, "running_accuracy": state.accuracy}


def generator_terms(setup: Setup, params: dict, discriminator: dict, inputs: dict, image_terms: bool,
                    level: jax.Array) -> dict:
    """Returns every term of the generator's and decoder's objective, unweighted, and the bit accuracy: name -> [N].

    Without `image_terms` those that need the discriminator or a second fingerprint are left out; the latter also where both
    consistencies weigh nothing. The decoder reads the bits from perturbed images, their strengths scaled by `level`, and the
    latent, which is to shape the picture, from untouched ones.
    """
    network, bits = setup.network, inputs["fingerprints"]
    generate = functools.partial(Generator(network).apply, {"params": params["generator"]}, inputs["latents"],
                                 labels=inputs["labels"])
    fakes = generate(bits, noise_keys=inputs["noise_keys"])
    o = setup.config.objective
    seen = quantize(fakes) if o.quantize else fakes
    decode = functools.partial(Decoder(network).apply, {"params": params["decoder"]})
    logits, estimates = decode(seen)
    if o.perturbations:
        ranges = parse_ranges(o.perturbations)
        logits, _ = decode(perturb(ranges, o.perturbed_share, seen, inputs["perturbation_keys"], level))
    terms = {
        "latent": losses.latent_reconstruction(inputs["latents"], estimates),
        "fingerprint": losses.fingerprint_cross_entropy(logits, bits),
        "out_of_range": losses.out_of_range(fakes),
        "accuracy": jnp.mean((logits > 0) == (bits > 0), axis=-1),
    }
    if image_terms:
        shown = show(setup, fakes, inputs["augment_keys"], inputs["pixels"])
        scores = Discriminator(network).apply({"params": discriminator}, shown, inputs["labels"])
        terms["adversarial"] = losses.generator_adversarial(scores)
    if image_terms and (o.consistency or o.coarse_consistency):
        others = generate(inputs["other_fingerprints"], noise_keys=inputs["noise_keys"])
        terms["consistency"] = losses.consistency(fakes, others, o.visibility)
        terms["coarse_consistency"] = losses.coarse_consistency(fakes, others)
    return terms


def term_weights(config: ml_collections.ConfigDict, ramp: jax.Array) -> dict:
    """Returns the weight of every term; the curriculum holds back the image terms: their weight is multiplied by `ramp`.

    That of the fingerprint falls, by the same ramp, from `curriculum.fingerprint_factor` times its value.
    """
    o = config.objective
    factor = 1 + (config.curriculum.fingerprint_factor - 1) * (1 - ramp)
    return {
        "adversarial": o.adversarial * ramp,
        "latent": o.latent,
        "fingerprint": o.fingerprint * factor,
        "consistency": o.consistency * ramp,
        "coarse_consistency": o.coarse_consistency * ramp,
        "out_of_range": o.out_of_range,
    }


def path_length_phase(setup: Setup, stream: int, state: TrainState, images: jax.Array) -> tuple[TrainState, dict]:
    """Updates the generator on the path length penalty, over a part of the batch, times the interval."""
    del images
    o, network = setup.config.objective, setup.network
    batch = setup.device_batch // o.path_length_batch_shrink
    inputs = draw_inputs(setup, state, stream, batch)
    generator = Generator(network)

    def penalty(params):
        variables = {"params": params}
        styles = generator.apply(variables, inputs["fingerprints"], inputs["labels"], method="styles")

        def projected(styles):
            fakes = generator.apply(variables, inputs["latents"], styles, inputs["noise_keys"],
                                    method=lambda m, *args: m.synthesis(*args))
            return jnp.sum(fakes * inputs["pixels"]) / network.resolution

        lengths = losses.path_lengths(jax.grad(projected)(styles))
        penalties, mean = losses.path_length_penalty(
            lengths, state.path_length_mean, o.path_length_decay, lambda x: lax.pmean(jnp.mean(x), AXIS))
        return jnp.mean(penalties), mean

    (value, mean), gradients = jax.value_and_grad(penalty, has_aux=True)(state.params["generator"])
    weight = o.path_length * o.path_length_interval * image_ramp(state)
    gradients = jax.tree.map(lambda g: weight * g, lax.pmean(gradients, AXIS))
    state = apply_gradients(setup.config, state, {"generator": gradients})
    return state.replace(path_length_mean=mean), {"path_length": lax.pmean(value, AXIS), "path_length_mean": mean}


def discriminator_phase(setup: Setup, stream: int, state: TrainState, images: jax.Array) -> tuple[TrainState, dict]:
    """Updates the discriminator on fresh fakes and on real images."""
    inputs = draw_inputs(setup, state, stream, setup.device_batch)
    # The generator phase has counted this step.
    reals, classes = draw_reals(setup, state.step - 1, images, inputs["mirror_keys"])
    fakes = Generator(setup.network).apply({"params": state.params["generator"]}, inputs["latents"],
                                           inputs["fingerprints"], inputs["noise_keys"], inputs["labels"])

    def objective(params):
        score = functools.partial(Discriminator(setup.network).apply, {"params": params})
        real_scores = score(show(setup, reals, inputs["real_augment_keys"], inputs["real_pixels"]), classes)
        fake_scores = score(show(setup, fakes, inputs["augment_keys"], inputs["pixels"]), inputs["labels"])
        loss = jnp.mean(losses.discriminator_adversarial(real_scores, fake_scores))
        return loss, {"discriminator": loss, "real_score": jnp.mean(real_scores), "fake_score": jnp.mean(fake_scores)}

    gradients, scalars = jax.grad(objective, has_aux=True)(state.params["discriminator"])
    gradients, scalars = lax.pmean((gradients, scalars), AXIS)
    return apply_gradients(setup.config, state, {"discriminator": gradients}), scalars


def r1_phase(setup: Setup, stream: int, state: TrainState, images: jax.Array) -> tuple[TrainState, dict]:
    """Updates the discriminator on gamma/2 times the squared gradient at real images, times the interval."""
    o, inputs = setup.config.objective, draw_inputs(setup, state, stream, setup.device_batch)
    reals, classes = draw_reals(setup, state.step - 1, images, inputs["mirror_keys"])
    policy = parse_policy(setup.config.augment.policy)

    def penalty(params):
        def total_score(x):
            shown = augment(policy, x, inputs["real_augment_keys"])
            return jnp.sum(Discriminator(setup.network).apply({"params": params}, shown, classes))
        return jnp.mean(losses.r1(jax.grad(total_score)(reals)))

    value, gradients = lax.pmean(jax.value_and_grad(penalty)(state.params["discriminator"]), AXIS)
    gradients = jax.tree.map(lambda g: o.r1_gamma / 2 * o.r1_interval * g, gradients)
    return apply_gradients(setup.config, state, {"discriminator": gradients}), {"r1": value}


def draw_inputs(setup: Setup, state: TrainState, stream: int, batch: int) -> dict:
    """Draws this device's random inputs of a phase, a function of (seed, step, stream, global sample index).

    Args:
      setup: what the phases share.
      state: gives the step, and the progress of the curriculum, which scales the latents.
      stream: of the phase, see Phase.
      batch: samples on this device.

    Returns:
      latents [batch, latent_size] ~ N(0, latent_scale^2 I); fingerprints, other_fingerprints [batch, n] in
      {0., 1.}; pixels, real_pixels [batch, R, R, channels] ~ N(0, 1); keys [batch] of noise, perturbations, augmentation
      (of generated and real images) and mirroring; labels [batch, label_size] one-hot, every class alike, None without
      classes. What a phase does not use, the compiler leaves out.
    """
    network, scale = setup.network, latent_scale(setup.config, state)
    few = setup.config.objective.distinct_fingerprints
    key = jax.random.key(setup.config.seed, impl="threefry2x32")
    key = jax.random.fold_in(jax.random.fold_in(key, 1 + state.step), stream)

    def one(index):
        latent, bits, other, noise, pixels, real_pixels = jax.random.split(jax.random.fold_in(key, index), 6)
        size = (network.resolution, network.resolution, network.channels)
        return {
            "latents": scale * jax.random.normal(latent, (network.latent_size,)),
            "fingerprints": draw_fingerprint(bits, network.fingerprint_bits, few, setup.config.seed),
            "other_fingerprints": draw_fingerprint(other, network.fingerprint_bits, few, setup.config.seed),
            "noise_keys": noise,
            "perturbation_keys": jax.random.fold_in(noise, 1),
            "augment_keys": jax.random.fold_in(noise, 2),
            "real_augment_keys": jax.random.fold_in(noise, 3),
            "mirror_keys": jax.random.fold_in(noise, 4),
            "labels": draw_label(jax.random.fold_in(noise, 5), network.label_size) if network.label_size else None,
            "pixels": jax.random.normal(pixels, size),
            "real_pixels": jax.random.normal(real_pixels, size),
        }

    return jax.vmap(one)(global_indices(batch))


def draw_fingerprint(key: jax.Array, n_bits: int, distinct: int = 0, seed: int = 0) -> jax.Array:
    """Draws a fingerprint, [n_bits] in {0., 1.}: of all 2^n alike, or of `distinct` ones that the seed decides once for all.

    With few of them one sees how many a decoder must have met before it reads unseen ones.
    """
    if distinct:
        own = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 2**31 - 1)  # no step's: these count from 1
        key = jax.random.fold_in(own, jax.random.randint(key, (), 0, distinct))
    return jax.random.bernoulli(key, shape=(n_bits,)).astype(jnp.float32)


def draw_label(key: jax.Array, label_size: int) -> jax.Array:
    """Draws a class, every one alike as in model/programs.py, one-hot [label_size] float32."""
    return jax.nn.one_hot(jax.random.randint(key, (), 0, label_size), label_size)


def draw_reals(setup: Setup, step: jax.Array, images: jax.Array | tuple[jax.Array, jax.Array],
               mirror_keys: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Returns this device's real images of a step and their classes.

    Args:
      setup: what the phases share.
      step: number of the step.
      images: see phases().
      mirror_keys: [device_batch], for augment.mirror.

    Returns:
      float32 [device_batch, R, R, 3] in [-1, 1]; one-hot float32 [device_batch, label_size], None without classes.
    """
    images, labels = images if setup.network.label_size else (images, None)
    if setup.resident:
        size, batch = images.shape[0], setup.config.batch_size
        position = step.astype(jnp.uint32) * jnp.uint32(batch) + global_indices(setup.device_batch)
        chosen = shuffled_index(setup.config.seed, (position // size, position % size), size)
        images, labels = images[chosen], None if labels is None else labels[chosen]
    images = to_float(images)
    images = mirror(images, mirror_keys) if setup.config.augment.mirror else images
    return images, None if labels is None else jax.nn.one_hot(labels, setup.network.label_size)


def global_indices(batch: int) -> jax.Array:
    """Numbers of this device's samples in the whole batch, uint32 [batch]."""
    return lax.axis_index(AXIS).astype(jnp.uint32) * jnp.uint32(batch) + jnp.arange(batch, dtype=jnp.uint32)


def show(setup: Setup, images: jax.Array, keys: jax.Array, pixels: jax.Array) -> jax.Array:
    """Returns what the discriminator sees of images, real or generated: augmented by keys [N], and with instance noise."""
    return add_instance_noise(setup, augment(parse_policy(setup.config.augment.policy), images, keys), pixels)


def add_instance_noise(setup: Setup, images: jax.Array, pixels: jax.Array) -> jax.Array:
    """Adds instance noise to what the discriminator sees, so that no pattern below the noise betrays a fingerprint to it.

    Args:
      setup: objective.instance_noise is the standard deviation, in the units of images.
      images: [N, R, R, C] in [-1, 1], real or generated.
      pixels: [N, R, R, C] ~ N(0, 1).
    """
    deviation = setup.config.objective.instance_noise
    return images + deviation * pixels if deviation else images
