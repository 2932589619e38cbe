"""The state of a training run: one pytree that holds everything that a resumed run needs."""

from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import optax

from fpgan.errors import FpganError
from fpgan.model.format import load_discriminator
from fpgan.model.model import load
from fpgan.networks.config import NetworkConfig
from fpgan.networks.parameters import NETWORKS, init_params


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


def adam(config, network: str) -> optax.GradientTransformation:
    """Adam without its learning rate, its betas corrected for lazy regularisation.

    With a regulariser every k steps on the same moments, beta becomes beta^(k/(k+1)) (Karras et al. 2020, appendix B).

    Args:
      config: the training config.
      network: "generator", "decoder" or "discriminator".
    """
    power = lazy_factor(config, network)
    o = config.optimizer
    return optax.scale_by_adam(b1=o.beta1**power, b2=o.beta2**power, eps=o.epsilon)


def lazy_factor(config, network: str) -> float:
    """k/(k+1) where the network has a regulariser every k steps, 1 where it has none."""
    weight, interval = ((config.objective.r1_gamma, config.objective.r1_interval) if network == "discriminator"
                        else (config.objective.path_length, config.objective.path_length_interval))
    return interval / (interval + 1) if weight else 1.0


def init_state(config, network: NetworkConfig) -> TrainState:
    """The state at step 0, a function of config.seed alone.

    Args:
      config: the training config.
      network: the architecture (config.network as NetworkConfig).
    """
    key = jax.random.key(config.seed, impl="threefry2x32")
    return state_from_params(config, jax.jit(init_params, static_argnums=0)(network, key))


def state_from_params(config, params: dict) -> TrainState:
    """A fresh state around given parameters, for a start from scratch or from another model."""
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


def params_from_model(path: str, network: NetworkConfig, fresh: dict) -> dict:
    """Parameters of a saved model as the start of a training run (config.init_from).

    Args:
      path: a model directory or the name of a shipped model; its discriminator is used if it was saved beside it.
      network: the architecture that is to be trained.
      fresh: random parameters of it; what remains of them is the discriminator, if the model has none. Noise maps that the
        architecture does not have are dropped.

    Raises:
      FpganError: if the model's architecture has other parameters, or makes another function of the same ones.
    """
    model = load(path)
    for field in ("bit_coding", "decoder_linear_gain", "fingerprint_strength", "mapping_lr_multiplier",
                  "minibatch_stddev_group", "minibatch_stddev_order"):
        theirs, ours = getattr(model.config, field), getattr(network, field)
        if theirs != ours:
            raise FpganError(f"cannot start from {path}: network.{field} is {ours!r}, there {theirs!r}; set the same")
    saved = dict(model.params)
    discriminator = load_discriminator(path) if Path(path).is_dir() else None
    saved["discriminator"] = fresh["discriminator"] if discriminator is None else discriminator

    def pick(place, old, new):
        for step in place:
            new = new.get(step.key) if isinstance(new, dict) else None
        if getattr(new, "shape", None) != old.shape:
            theirs, ours = model.config.to_dict(), network.to_dict()
            differs = ", ".join(f"network.{k} is {ours[k]!r}, there {theirs[k]!r}" for k in ours if ours[k] != theirs[k])
            raise FpganError(f"cannot start from {path}: it has another architecture ({differs}); set the same fields")
        return new

    return jax.tree_util.tree_map_with_path(lambda place, old: pick(place, old, saved), fresh)
