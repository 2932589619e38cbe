"""The authors' models import from their pickles and compute their numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from official_pickles import ORACLES, dump, networks, oracle, part

import fpgan
from fpgan.cli import app
from fpgan.errors import FpganError
from fpgan.io.images import to_uint8
from fpgan.model.format import load_discriminator
from fpgan.model.official import import_official, translate
from fpgan.networks.decoder import Decoder
from fpgan.networks.discriminator import Discriminator
from fpgan.networks.generator import Generator
from fpgan.training import losses

PREFIXES = {"generator": {"G_mapping": "mapping/", "G_synthesis": "synthesis/"},
            "decoder": {"E": ""}, "discriminator": {"D": ""}}


@pytest.fixture(scope="module", params=ORACLES)
def imported(request, tmp_path_factory):
    """An oracle's name, the model imported from its pickle, and its three networks' parameters."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "official.pkl").write_bytes(dump(networks(request.param)))
    model = import_official(folder / "official.pkl", folder / "model")
    params = model.params | {"discriminator": load_discriminator(folder / "model")}
    return request.param, model, params


def close(result, expected, tolerance):
    """Asserts that the largest difference is within a share of the largest value."""
    result, expected = np.asarray(result), np.asarray(expected)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= tolerance * np.abs(expected).max()


def run(function, *arguments):
    """Compiles and runs in full float32 precision, whatever the device prefers."""
    with jax.default_matmul_precision("highest"):
        return jax.jit(function)(*arguments)


def nhwc(images):
    return images.transpose(0, 2, 3, 1)


def labels_or_none(model, labels):
    return labels if model.config.label_size else None


def check_gradients(name, config, prefix, gradients):
    """Compares gradients with an oracle's; what has none there must be zero."""
    known = part(name, f"grads:{prefix}:")
    for network, gradient in gradients.items():
        expected = {}
        for title, start in PREFIXES[network].items():
            for key, value in part(name, f"vars:{title}/").items():
                expected[start + key] = known.get(f"{title}/{key}", np.zeros_like(value))
        expected = translate(network, expected, config)
        assert jax.tree.structure(expected) == jax.tree.structure(gradient)
        jax.tree.map(functools.partial(close, tolerance=1e-3), gradient, expected)


def test_outputs_are_the_authors(imported):
    name, model, params = imported
    config, given = model.config, part(name, "io:")
    labels = labels_or_none(model, given["labels"])

    def outputs(params):
        generator = functools.partial(Generator(config).apply, {"params": params["generator"]})
        images = generator(given["z"], given["bits"], None, labels)
        score = functools.partial(Discriminator(config).apply, {"params": params["discriminator"]})
        pairs = jax.vmap(score)(images.reshape(4, 2, 16, 16, 3), None if labels is None else labels.reshape(4, 2, -1))
        return (images, generator(given["bits"], labels, method="styles"), score(images, labels), pairs[0],
                *Decoder(config).apply({"params": params["decoder"]}, images))

    images, styles, scores, pair, logits, latents = run(outputs, params)
    close(images, nhwc(given["images_psi1"]), 1e-4)
    close(styles, given["dlatents_psi1"], 1e-4)
    close(logits, given["E_logits"], 1e-4)
    close(latents, given["E_latents"], 1e-4)
    close(scores, given["D_scores_batch8"][:, 0], 1e-4)
    close(pair, given["D_scores_batch2"][:, 0], 1e-4)
    stored = oracle(name)["uint8:images_uint8_nhwc"]
    assert np.abs(to_uint8(np.asarray(images)).astype(int) - stored).max() <= 1
    close(model.decode(stored, batch_size=8), oracle(name)["uint8:E_logits_roundtrip"], 1e-4)


def test_objective_and_gradients_are_the_authors(imported):
    name, model, params = imported
    config, given = model.config, part(name, "losses:")
    labels = labels_or_none(model, np.concatenate([given["labels"]] * 2))

    def objective(trained, discriminator):
        both = np.concatenate([given["z"]] * 2), np.concatenate([given["bits"], given["bits_another"]])
        images, others = jnp.split(Generator(config).apply({"params": trained["generator"]}, *both, None, labels), 2)
        logits, latents = Decoder(config).apply({"params": trained["decoder"]}, images)
        scores = Discriminator(config).apply({"params": discriminator}, images, None if labels is None else labels[:8])
        terms = {
            "EG_loss_G": losses.generator_adversarial(scores),
            "EG_loss_decouple": 2 * losses.consistency(images, others),
            "EG_loss_E_latents": losses.latent_reconstruction(given["z"], latents),
            "EG_loss_E_watermarks": 2 * losses.fingerprint_cross_entropy(logits, given["bits"]),
        }
        return sum(map(jnp.mean, terms.values())), terms

    trained = {network: params[network] for network in ("generator", "decoder")}
    (loss, terms), gradients = run(jax.value_and_grad(objective, has_aux=True), trained, params["discriminator"])
    for term, value in terms.items():
        close(value, given[term].reshape(8), 1e-3)
    close(loss, given["loss_EG"].mean(), 1e-3)
    check_gradients(name, config, "EG", gradients)


def test_path_length_and_its_gradients_are_the_authors(imported):
    name, model, params = imported
    config, given = model.config, part(name, "losses:")
    labels = labels_or_none(model, given["pl_labels"])

    def objective(params):
        generator = functools.partial(Generator(config).apply, {"params": params})

        def projected(styles):
            images = generator(given["pl_z"], styles, method=lambda module, *args: module.synthesis(*args))
            return jnp.sum(images * nhwc(given["pl_noise_raw"])) / config.resolution

        lengths = losses.path_lengths(jax.grad(projected)(generator(given["pl_bits"], labels, method="styles")))
        penalty, mean = losses.path_length_penalty(lengths, 0.0, 0.01)
        second, second_mean = losses.path_length_penalty(lengths, mean, 0.01)
        return jnp.mean(4 * 2 * penalty), (lengths, penalty, mean, second, second_mean)

    (_, values), gradients = run(jax.value_and_grad(objective, has_aux=True), params["generator"])
    lengths, penalty, mean, second, second_mean = values
    close(lengths, given["EG_pl_lengths"], 1e-3)
    close(penalty, given["EG_pl_penalty"], 1e-3)
    close(2 * penalty, given["reg_G"], 1e-3)
    close(2 * second, given["reg_G_step2"], 1e-3)
    close(mean, given["pl_mean_after_step1"], 1e-3)
    close(second_mean, given["pl_mean_after_step2"], 1e-3)
    check_gradients(name, config, "Greg", {"generator": gradients})


def test_discriminator_losses_and_their_gradients_are_the_authors(imported):
    name, model, params = imported
    given = part(name, "losses:")
    labels = labels_or_none(model, given["labels"])
    reals, fakes = nhwc(given["reals"]), nhwc(given["images"])

    def score(params, images):
        return Discriminator(model.config).apply({"params": params}, images, labels)

    def logistic(params):
        real_scores, fake_scores = jax.vmap(functools.partial(score, params))(jnp.stack([reals, fakes]))
        values = losses.discriminator_adversarial(real_scores, fake_scores)
        return jnp.mean(values), (real_scores, fake_scores, values)

    def penalty(params):
        values = losses.r1(jax.grad(lambda images: jnp.sum(score(params, images)))(reals))
        return jnp.mean(16 * 100 / 2 * values), values

    def both(params):
        return [jax.grad(objective, has_aux=True)(params) for objective in (logistic, penalty)]

    (gradients, values), (penalty_gradients, penalties) = run(both, params["discriminator"])
    for value, key in zip(values, ("real_scores", "fake_scores", "loss_D"), strict=True):
        close(value, given[key][:, 0], 1e-3)
    close(penalties, given["D_gradient_penalty"], 1e-3)
    close(50 * penalties, given["reg_D"], 1e-3)
    check_gradients(name, model.config, "D", {"discriminator": gradients})
    check_gradients(name, model.config, "Dreg", {"discriminator": penalty_gradients})


def test_the_architecture_comes_from_the_file(imported):
    name, model, _ = imported
    labelled = "labels3" in name
    expected = dict(
        resolution=16, channels=3, fingerprint_bits=8, latent_size=16, style_size=16, channel_base=64, channel_max=512,
        decoder_channel_base=0, discriminator_channel_base=0, mapping_layers=8, mapping_lr_multiplier=0.01,
        bit_coding="zero_one", noise="fixed", minibatch_stddev_group=4, minibatch_stddev_order="strided",
        modulated_min=0 if labelled else 8, modulated_max=0 if labelled else 8, label_size=3 if labelled else 0)
    assert expected.items() <= model.config.to_dict().items()
    assert model.info["imported"]["generator"] == "running average" and len(model.info["imported"]["sha256"]) == 64


def test_a_conditional_model_draws_labels_or_takes_them(tmp_path):
    (tmp_path / "official.pkl").write_bytes(dump(networks(ORACLES[1])))
    model = import_official(tmp_path / "official.pkl", tmp_path / "model")
    bits, seeds = np.zeros((6, 8), np.uint8), range(6)
    by_class = np.stack([model.generate(bits, seeds, labels=label, batch_size=6) for label in range(3)])
    drawn = model.generate(bits, seeds, batch_size=6)
    differences = np.abs(by_class.astype(int) - drawn).max(axis=(2, 3, 4))  # [3, 6]
    classes = differences.argmin(axis=0)
    assert differences.min(axis=0).max() <= 1 and len(set(classes)) > 1
    assert np.abs(model.generate(bits, seeds, labels=classes, batch_size=6).astype(int) - drawn).max() <= 1
    with pytest.raises(FpganError, match=r"an integer in \[0, 2\]"):
        model.generate(bits, seeds, labels=3)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "official.pkl").write_bytes(dump(networks(ORACLES[0])))
    return tmp_path


def test_the_verb_writes_a_model_that_generates_and_decodes(folder, capsys):
    assert app.main(["import-official", str(folder / "official.pkl"), "--out", str(folder / "sub/model")]) == 0
    model = fpgan.load(folder / "sub/model")
    printed = capsys.readouterr().out
    assert model.hash in printed and "running average" in printed and model.name == "model"
    assert sorted(p.name for p in (folder / "sub").iterdir()) == ["model"]
    images = model.generate(np.eye(8, dtype=np.uint8), 5, batch_size=8)
    assert len(np.unique(images.reshape(8, -1), axis=0)) == 8 and model.decode(images).shape == (8, 8)


def test_raw_takes_the_last_weights(folder):
    average = import_official(folder / "official.pkl", folder / "average").params
    assert app.main(["import-official", "--raw", str(folder / "official.pkl"), "--out", str(folder / "raw")]) == 0
    raw = fpgan.load(folder / "raw").params
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(2 * a, b), average["generator"], raw["generator"])
    jax.tree.map(np.testing.assert_array_equal, average["decoder"], raw["decoder"])


def test_a_model_saved_over_an_import_loses_the_old_discriminator(folder):
    model = import_official(folder / "official.pkl", folder / "model")
    assert load_discriminator(folder / "model") is not None
    model.save(folder / "model")
    assert load_discriminator(folder / "model") is None
    assert sorted(p.name for p in (folder / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_widths_that_no_argument_tells_follow_from_the_arrays(tmp_path):
    changed = networks(ORACLES[0])
    for network in (*changed, *changed[3].state["components"].values()):
        network.state["static_kwargs"] = {"resolution": 16}
    (tmp_path / "official.pkl").write_bytes(dump(changed))
    config = import_official(tmp_path / "official.pkl", tmp_path / "model").config
    widths = [[config.width(r, network) for r in (16, 8, 4)] for network in ("generator", "decoder", "discriminator")]
    assert widths == [[8, 16, 32]] * 3 and config.width(2, "decoder") == config.width(2, "discriminator") == 64
