"""The whole evaluation on a small stand-in for a model whose errors are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats

from fpgan.attribution.statistics import threshold
from fpgan.benchmarks.throughput import random_params
from fpgan.cli.app import main
from fpgan.data.sources import Files
from fpgan.errors import FpganError
from fpgan.evaluation import suites as evaluation
from fpgan.evaluation.report import table
from fpgan.evaluation.samples import Settings, draw
from fpgan.io.images import encode_png, to_uint8
from fpgan.model.format import save_model
from fpgan.networks.config import NetworkConfig

N_BITS, RESOLUTION = 128, 16


class PaintedBits:
    """A model whose images show two bits in each 2x2 patch, as red and green; blue is the latent's."""

    name, hash, resolution, n_bits = "painted", "0123456789abcdef", RESOLUTION, N_BITS

    def __init__(self, error_rate=0.0):
        self.error_rate = error_rate

    def generate_float(self, fingerprints, seeds, *, batch_size):
        seeds = np.atleast_1d(seeds)
        bits = np.broadcast_to(np.atleast_2d(fingerprints), (len(seeds), N_BITS))
        patches = np.zeros((len(seeds), 8, 8, 3), np.float32)
        for image, row, seed in zip(patches, bits, seeds, strict=True):
            rng = np.random.default_rng(seed)
            wrong = rng.random(N_BITS) < self.error_rate
            image[..., :2] = np.where(row.astype(bool) ^ wrong, 0.5, -0.5).reshape(8, 8, 2)
            image[..., 2] = rng.uniform(-0.9, 0.9)
        return patches.repeat(2, axis=1).repeat(2, axis=2)

    def generate(self, fingerprints, seeds, *, batch_size):
        return to_uint8(self.generate_float(fingerprints, seeds, batch_size=batch_size))

    def decode(self, images):
        images = images / np.float32(127.5) - 1 if images.dtype == np.uint8 else images
        return images[:, ::2, ::2, :2].reshape(len(images), N_BITS)


class NoiseImages:
    name, licence, resolution = "noise", "none needed", RESOLUTION

    def __len__(self):
        return 400

    def read(self, indices):
        shape = (RESOLUTION, RESOLUTION, 3)
        return np.stack([np.random.default_rng(i).integers(0, 128, shape, dtype=np.uint8) for i in indices])


SETTINGS = Settings(count=150, seed=7, n_users=5000)


@pytest.fixture(scope="module")
def perfect():
    return evaluation.evaluate(PaintedBits(), NoiseImages(), SETTINGS)


def test_a_perfect_model_is_seen_as_perfect(perfect):
    assert perfect["bit_accuracy"]["float"]["value"] == perfect["bit_accuracy"]["png"]["value"] == 1.0
    assert perfect["capacity_bits"] == 128 and perfect["worst_bit_accuracy"] == 1.0
    after = perfect["attribution"]["after"]["png"]
    assert (after["correct"], after["wrong"], after["nobody"]) == (150, 0, 0)
    assert after["share"]["low"] == pytest.approx(150 / (150 + 1.96**2), abs=1e-4)


def test_a_known_error_rate_is_found():
    results = evaluation.evaluate(PaintedBits(error_rate=0.2), NoiseImages(), SETTINGS)
    accuracy = results["bit_accuracy"]["png"]
    assert accuracy["value"] == pytest.approx(0.8, abs=0.01)
    assert accuracy["low"] < 0.8 < accuracy["high"]
    needed = results["attribution"]["needed_matches"]
    assert needed == threshold(128, 1e-6, 5000)
    expected = scipy.stats.binom.sf(needed - 1, 128, 0.8)
    assert results["attribution"]["after"]["png"]["share"]["value"] == pytest.approx(expected, abs=0.08)
    assert results["attribution"]["after"]["png"]["wrong"] == 0
    after = results["attribution"]["after"].values()
    assert all(found["soft_share"]["low"] <= found["soft_share"]["value"] <= found["soft_share"]["high"] for found in after)


def test_noise_is_nobodys(perfect):
    found = perfect["false_attribution"]["noise"]
    assert (found["images"], found["attributed"], found["attributed_softly"]) == (150, 0, 0)
    assert found["mean_matches"] == pytest.approx(64, abs=2)
    assert found["binomial_fit"]["p_value"] > 1e-4


def test_consistency_and_diversity_have_the_painted_values(perfect):
    # Half of 2/3 of the values differ by 0.5 - (-0.5) = 127.5 grey levels: 128 after rounding, or 127.
    assert perfect["consistency"]["median"] == pytest.approx(10 * np.log10(255**2 / (127.5**2 / 3)), abs=0.5)
    # Within one instance only the blue background differs, uniform over 0.9 * 255 grey levels.
    assert perfect["diversity"]["one_instance"] == pytest.approx(np.sqrt(2 / 12 / 3) * 0.9 * 255, rel=0.1)
    assert perfect["diversity"]["real"] == pytest.approx(np.sqrt(2 / 12) * 128, rel=0.02)


def test_distances_are_named_after_their_features(perfect):
    assert perfect["frechet_distance"]["features"] == perfect["kernel_distance"]["features"] == "pixels@8"
    assert perfect["frechet_distance"]["value"] > 1
    assert perfect["kernel_distance"]["value"] > 10 * perfect["kernel_distance"]["standard_error"]


def test_results_are_plain_json_and_repeatable(perfect):
    again = evaluation.evaluate(PaintedBits(), NoiseImages(), SETTINGS)
    drop = {"seconds": None}
    assert json.loads(json.dumps(perfect | drop, allow_nan=False)) == again | drop
    other = evaluation.evaluate(PaintedBits(), NoiseImages(), Settings(count=150, seed=8, n_users=5000))
    assert other["frechet_distance"] != perfect["frechet_distance"]


def test_the_table_tells_the_main_numbers(perfect):
    text = table(perfect)
    assert "150 of 150" in text and "128.0" in text and "Frechet distance over pixels@8" in text
    assert max(map(len, text.splitlines())) <= 100


def test_other_images_are_read_from_a_folder(tmp_path):
    for i in range(3):
        image = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        (tmp_path / f"{i}.png").write_bytes(encode_png(image))
    others = [Files(str(tmp_path), RESOLUTION)]
    settings = Settings(count=20, seed=1, n_users=10)
    results = evaluation.evaluate(PaintedBits(), NoiseImages(), settings, others=others)
    found = results["false_attribution"][str(tmp_path)]
    assert (found["images"], found["attributed"], found["binomial_fit"]) == (3, 0, None)
    assert "3 images" in table(results)


def test_users_share_the_images_when_they_are_few():
    draws = draw(Settings(count=10, seed=0, n_users=3), 20)
    np.testing.assert_array_equal(draws.owners, [0, 1, 2] * 3 + [0])
    np.testing.assert_array_equal(draws.bits, draws.registry.bits[draws.owners])
    assert len(set(draws.seeds)) == 10


def test_too_many_users_for_the_bits_leave_attribution_out():
    assert evaluation._needed(Settings(n_users=10**6), 16) is None
    with pytest.raises(FpganError):
        evaluation._needed(Settings(false_positive_rate=0.0), 128)


@pytest.mark.parametrize("settings, message", [
    (Settings(count=5), "too little"), (Settings(count=401), "lower the count"),
    (Settings(count=20, seed=-1), "0, or more"), (Settings(count=20, features="fid"), "no features named"),
])
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(FpganError, match=message):
        evaluation.evaluate(PaintedBits(), NoiseImages(), settings)


class Mirrored(PaintedBits):
    """Its images lie mirrored, and are read rightly where that is undone."""

    info = {"aligner": {"hash": "00aa" * 4}}

    def generate_float(self, *args, **options):
        return super().generate_float(*args, **options)[:, :, ::-1]

    def __init__(self, searched):
        super().__init__()
        self.searched = searched

    def read(self, images, search):
        assert search == "fast"
        self.searched.append(len(images))
        return SimpleNamespace(logits=self.decode(images[:, :, ::-1]))


def test_a_search_is_that_of_everything_that_is_read(tmp_path, monkeypatch, capsys):
    searched = []
    monkeypatch.setattr("fpgan.model.model.load", lambda name: Mirrored(searched))
    monkeypatch.setattr("fpgan.data.sources.open_source", lambda *args: NoiseImages())
    found = {}
    for search in ("none", "fast"):
        out = tmp_path / f"{search}.json"
        assert main(["evaluate", "--images", "40", "--registry-size", "1000", "--search", search, "--out", str(out)]) == 0
        assert ("search fast" in capsys.readouterr().out) == (search == "fast")
        found[search] = json.loads(out.read_text())
    for saved in ("float", "png"):
        assert found["none"]["bit_accuracy"][saved]["value"] < 0.6 and found["fast"]["bit_accuracy"][saved]["value"] == 1.0
    after = {search: results["attribution"]["after"]["png"]["correct"] for search, results in found.items()}
    assert after == {"none": 0, "fast": 40}
    assert found["fast"]["settings"]["search"] == "fast" and found["fast"]["model"]["aligner"] == "00aa" * 4
    assert "aligner" not in found["none"]["model"]
    assert sum(searched) == 40 * (1 + len(found["fast"]["bit_accuracy"]))  # what is not the model's is searched, too


def test_nan_in_the_images_is_named():
    class Broken(PaintedBits):
        def generate_float(self, *args, **options):
            return super().generate_float(*args, **options) * np.nan
    with pytest.raises(FpganError, match="painted makes images with NaN"):
        evaluation.evaluate(Broken(), NoiseImages(), SETTINGS)


def test_names_of_images_become_settings(tmp_path):
    assert evaluation.data_settings("robohash_cats") == {"name": "robohash_cats"}
    assert evaluation.data_settings("tfds:celeb_a")["tfds_name"] == "celeb_a"
    assert evaluation.data_settings(str(tmp_path))["path"] == str(tmp_path)
    with pytest.raises(FpganError, match="no images"):
        evaluation.data_settings("robohash_cat")


def test_the_verb_measures_a_model_folder_and_writes_json(tmp_path, capsys):
    pytest.importorskip("robohash")
    config = NetworkConfig(resolution=8, channel_base=16, channel_max=8, fingerprint_bits=16, latent_size=8,
                           style_size=8, mapping_layers=1, mapping_lr_multiplier=1.0, noise="none")
    save_model(tmp_path / "model", config, random_params(config, 0), {"name": "tiny"})
    out = tmp_path / "metrics.json"
    arguments = ["--model", str(tmp_path / "model"), "--images", "24", "--registry-size", "1000", "--out", str(out)]
    assert main(["evaluate", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "16 bits are too few for 1,000 users" in printed and f"written to {out}" in printed
    results = json.loads(out.read_text())
    assert results["data"]["name"] == "robohash_cats" and "David Revoy" in results["data"]["licence"]
    assert 0.3 < results["bit_accuracy"]["png"]["value"] < 0.7
    assert results["provenance"]["fpgan"] and results["provenance"]["device"]["count"] >= 1
    assert main(["evaluate", *arguments, "--features", "fid"]) == 2
    assert "no features named 'fid'" in capsys.readouterr().err
