"""The state of a training run: one pytree that holds everything that a resumed run needs."""

from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from fpgan.errors import FpganError
from fpgan.model.format import load_discriminator
from fpgan.model.model import load
from fpgan.networks.growing import can_grow, grow
from fpgan.networks.parameters import NETWORKS, init_params
from fpgan.training.config import architecture


@flax.struct.dataclass
class TrainState:
    """Parameters, optimiser states and counters.

    Attributes:
      step: int32, steps done.
      params: {"generator", "decoder", "discriminator"} -> parameters.
      ema: {"generator", "decoder"} -> exponential moving averages of the parameters.
      optimizer: the moments of Adam, by network.
      path_length_mean: float32, running mean of the path lengths.
      accuracy: float32, running bit accuracy on training images, starting at 0.5.
      progress: float32 in [0, 2], how far the curriculum has come; 2 is the whole objective.
      image_terms: bool, whether the curriculum lets the image terms in.
    """

    step: jax.Array
    params: dict
    ema: dict
    optimizer: dict
    path_length_mean: jax.Array
    accuracy: jax.Array
    progress: jax.Array
    image_terms: jax.Array


def adam(config: ml_collections.ConfigDict, network: str) -> optax.GradientTransformation:
    """Returns Adam without its learning rate, its betas corrected for lazy regularisation.

    With a regulariser every k steps on the same moments, beta becomes beta^(k/(k+1)) (Karras et al. 2020, appendix B).

    Args:
      config: the training config.
      network: "generator", "decoder" or "discriminator".
    """
    power = lazy_factor(config, network)
    o = config.optimizer
    return optax.scale_by_adam(b1=o.beta1**power, b2=o.beta2**power, eps=o.epsilon)


def lazy_factor(config: ml_collections.ConfigDict, network: str) -> float:
    """Returns k/(k+1) where the network has a regulariser every k steps, 1 where it has none."""
    weight, interval = ((config.objective.r1_gamma, config.objective.r1_interval) if network == "discriminator"
                        else (config.objective.path_length, config.objective.path_length_interval))
    return interval / (interval + 1) if weight else 1.0


def init_state(config: ml_collections.ConfigDict) -> TrainState:
    """Returns the state at step 0 of a training config; its parameters depend on config.seed and architecture alone."""
    key = jax.random.key(config.seed, impl="threefry2x32")
    return state_from_params(config, jax.jit(init_params, static_argnums=0)(architecture(config), key))


def state_from_fork(config: ml_collections.ConfigDict, state: TrainState) -> TrainState:
    """Returns the state of another run as the start of one with this config: whole, without a curriculum if it has none."""
    if config.curriculum.bits_first:
        return state
    return state.replace(progress=jnp.full((), 2.0), image_terms=jnp.ones((), bool))


def state_from_params(config: ml_collections.ConfigDict, params: dict) -> TrainState:
    """Returns a fresh state around given parameters, for a start from scratch or from another model."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, {name: params[name] for name in ("generator", "decoder")}),
        optimizer={name: adam(config, name).init(params[name]) for name in NETWORKS},
        path_length_mean=jnp.zeros(()),
        accuracy=jnp.full((), 0.5),
        progress=jnp.full((), 0.0 if config.curriculum.bits_first else 2.0),
        image_terms=jnp.full((), not config.curriculum.bits_first),
    )


def params_from_model(config: ml_collections.ConfigDict, fresh: dict) -> dict:
    """Returns the parameters of the saved model `config.init_from` as the start of a training run.

    Args:
      config: the training config; `init_from` is a model directory or the name of a shipped model, whose discriminator is
        used if it was saved beside it. A model of less resolution is grown.
      fresh: random parameters of the config's architecture; what remains of them is the discriminator, if the model has
        none. Noise maps that the architecture does not have are dropped.

    Raises:
      FpganError: if the model's architecture has other parameters, or makes another function of the same ones.
    """
    path, network = config.init_from, architecture(config)
    model = load(path)
    for field in ("bit_coding", "decoder_linear_gain", "fingerprint_strength", "mapping_lr_multiplier",
                  "minibatch_stddev_group", "minibatch_stddev_order"):
        theirs, ours = getattr(model.config, field), getattr(network, field)
        if theirs != ours:
            raise FpganError(f"cannot start from {path}: network.{field} is {ours!r}, there {theirs!r}; set the same")
    saved = dict(model.params)
    discriminator = load_discriminator(path) if Path(path).is_dir() else None
    if discriminator is not None:
        saved["discriminator"] = discriminator
    saved = grow(model.config, network, saved, fresh) if can_grow(model.config, network) else fresh | saved

    def pick(place, old, new):
        for step in place:
            new = new.get(step.key) if isinstance(new, dict) else None
        if getattr(new, "shape", None) != old.shape:
            theirs, ours = model.config.to_dict(), network.to_dict()
            differs = ", ".join(f"network.{k} is {ours[k]!r}, there {theirs[k]!r}" for k in ours if ours[k] != theirs[k])
            raise FpganError(f"cannot start from {path}: it has another architecture ({differs}); set the same fields")
        return new

    return jax.tree_util.tree_map_with_path(lambda place, old: pick(place, old, saved), fresh)


def averaged_params(config: ml_collections.ConfigDict, state: TrainState) -> dict:
    """Returns the parameters that a model of this state consists of, as trained: {"generator", "decoder"} -> nested dict
    of arrays.

    Args:
      config: the training config; its `ema_decoder` says which decoder.
      state: a TrainState, replicated or not.
    """
    return dict(state.ema) if config.ema_decoder else {**state.ema, "decoder": state.params["decoder"]}


STAGE_INTERVAL = 16  # steps between the moments at which the image terms are let in or out


def apply_gradients(config: ml_collections.ConfigDict, state: TrainState, gradients: dict) -> TrainState:
    """Takes one Adam step for the networks that have gradients."""
    params, optimizer = dict(state.params), dict(state.optimizer)
    for name, gradient in gradients.items():
        updates, optimizer[name] = adam(config, name).update(gradient, optimizer[name])
        rate = learning_rate(config, name, state)
        params[name] = optax.apply_updates(params[name], jax.tree.map(lambda u, rate=rate: -rate * u, updates))
    return state.replace(params=params, optimizer=optimizer)


def learning_rate(config: ml_collections.ConfigDict, network: str, state: TrainState) -> jax.Array:
    """Computes the network's learning rate: constant, then falling linearly to 0 over the last `decay_images`.

    While the bits come first, generator and decoder learn faster by `curriculum.learning_rate_factor`.
    """
    o, c = config.optimizer, config.curriculum
    rate = o[f"{network}_learning_rate"] * lazy_factor(config, network)
    if o.decay_images:
        left = config.total_images - state.step.astype(jnp.float32) * config.batch_size
        rate = rate * jnp.clip(left / o.decay_images, 0, 1)
    if c.bits_first and network != "discriminator":
        rate = rate * (1 + (c.learning_rate_factor - 1) * (1 - image_ramp(state)))
    return rate


def update_averages(config: ml_collections.ConfigDict, state: TrainState) -> TrainState:
    """Moves the averages of generator and decoder towards their parameters (half-life in images)."""
    beta = 0.5 ** (config.batch_size / config.ema_half_life_images)
    ema = jax.tree.map(lambda average, value: value + (average - value) * beta,
                       state.ema, {name: state.params[name] for name in state.ema})
    return state.replace(ema=ema)


def image_ramp(state: TrainState) -> jax.Array:
    """Returns how far the image terms are let in, in [0, 1]: the second stage of the curriculum."""
    return jnp.clip(state.progress - 1, 0, 1)


def perturbation_level(state: TrainState) -> jax.Array:
    """Returns how strong the perturbations are, in [0, 1]: they grow with the latents, in the first stage of the
    curriculum.
    """
    return jnp.clip(state.progress, 0, 1)


def latent_scale(config: ml_collections.ConfigDict, state: TrainState) -> jax.Array:
    """Returns the standard deviation of the latents: from `curriculum.latent_scale` to 1 in the first stage of the
    curriculum.
    """
    start = config.curriculum.latent_scale
    return start + (1 - start) * jnp.clip(state.progress, 0, 1)


def advance_curriculum(config: ml_collections.ConfigDict, state: TrainState, accuracy: jax.Array) -> TrainState:
    """Counts the step, and moves the curriculum on if the running bit accuracy allows it.

    With `bits_first`, `progress` waits at 0 until the accuracy reaches `start_accuracy`. Then, in two stages, it rises
    from 0 to 1 within `latent_images` (the latents grow to their full scale) and from 1 to 2 within `ramp_images` (the
    image terms grow to their full weight). It falls at the same speed while the accuracy is below `hold_accuracy`.
    `image_terms` follows every STAGE_INTERVAL steps, so that the host need not look at every step.
    """
    c, batch = config.curriculum, config.batch_size
    running = state.accuracy + (accuracy - state.accuracy) * min(1.0, batch / c.accuracy_images)
    progress = state.progress
    if c.bits_first:
        change = batch / jnp.where(progress < 1, c.latent_images, c.ramp_images)
        moved = jnp.clip(progress + jnp.where(running >= c.hold_accuracy, change, -change), 1e-3, 2)
        begun = (progress > 0) | (running >= c.start_accuracy)
        progress = jnp.where(begun, moved, 0.0)
    step = state.step + 1
    image_terms = jnp.where(step % STAGE_INTERVAL == 0, progress > 1, state.image_terms)
    return state.replace(step=step, accuracy=running, progress=progress, image_terms=image_terms)
