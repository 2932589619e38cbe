"""Benchmarks: what is compared is the same function, timed in turns, and the numbers add up."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpgan.attribution import proofs
from fpgan.benchmarks import attribute, instance, registry, throughput, timing
from fpgan.benchmarks.bench import bench, table
from fpgan.benchmarks.timing import Settings
from fpgan.errors import FpganError
from fpgan.model import programs
from fpgan.networks import layers
from fpgan.networks.config import NetworkConfig

TINY = NetworkConfig(resolution=8, channel_base=16, channel_max=8, fingerprint_bits=16, latent_size=8,
                     style_size=8, mapping_layers=1, mapping_lr_multiplier=1.0, noise="none")


@pytest.mark.parametrize("size, demodulate, up", [(3, True, False), (3, True, True), (1, False, False)])
def test_grouped_convolutions_are_the_same_function(size, demodulate, up):
    rng = np.random.default_rng(0)
    x, kernel, style = (jnp.asarray(rng.normal(size=shape), jnp.float32)
                        for shape in [(3, 5, 6, 4), (size, size, 4, 7), (3, 4)])
    shared = layers.modulated_conv(x, kernel, style, demodulate=demodulate, up=up)
    grouped = throughput.grouped_modulated_conv(x, kernel, style, demodulate=demodulate, up=up)
    assert shared.shape == grouped.shape == ((3, 10, 12, 7) if up else (3, 5, 6, 7))
    np.testing.assert_allclose(grouped, shared, rtol=1e-4, atol=1e-5)


def test_the_whole_generator_runs_with_grouped_convolutions_and_then_without():
    shared = layers.modulated_conv
    inputs = (throughput.random_params(TINY, 0)["generator"], *throughput.generator_inputs(TINY, 3, 0))

    def text():
        return jax.jit(programs.generate_fn(TINY)).lower(*inputs).as_text()

    with throughput.grouped_convolutions():
        assert "feature_group_count = 3" in text()
    assert layers.modulated_conv is shared and "feature_group_count = 3" not in text()
    with pytest.raises(ZeroDivisionError), throughput.grouped_convolutions():
        raise ZeroDivisionError
    assert layers.modulated_conv is shared


def test_calls_take_turns_after_one_that_does_not_count():
    order = []
    calls = {name: lambda name=name: order.append(name) or jnp.zeros(()) for name in "ab"}
    seconds = timing.time_interleaved(calls, 3)
    assert order == list("ab" * 4)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_flops_of_a_matrix_product_are_counted():
    program = timing.compile_program(lambda a, b: a @ b, jnp.ones((32, 48)), jnp.ones((48, 64)))
    assert program.flops == pytest.approx(2 * 32 * 48 * 64, rel=0.05)
    assert program.call().shape == (32, 64) and program.compile_seconds > 0


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    patch = pytest.MonkeyPatch()
    patch.setitem(throughput._PEAK_SIDE, "cpu", 64)
    settings = Settings(batches=(1, 4), repeats=3, grouped_batch=4, fingerprints=41)
    returned = bench(["generate", "decode"], TINY, settings, out=out, command="fpgan bench ...")
    patch.undo()
    assert json.loads(out.read_text()) == json.loads(json.dumps(returned))
    return returned


def test_numbers_of_a_run_add_up(results):
    for task in ("generate", "decode"):
        assert [row["batch"] for row in results[task]["rows"]] == [1, 4]
        for row in results[task]["rows"]:
            assert row["slowest"] <= row["images_per_second"] <= row["fastest"]
            assert row["flops_per_second"] == pytest.approx(row["flops_per_image"] * row["images_per_second"])
            peak = results[task]["peak"]
            assert row["of_peak"] == pytest.approx(row["flops_per_second"] / peak["flops_per_second"])
    assert results["generate"]["grouped"]["relative_difference"] < 1e-4
    assert results["provenance"]["command"] == "fpgan bench ..."


def test_new_fingerprints_are_not_traced_again(results):
    traces = results["generate"]["traces"]
    assert (traces["traces"], traces["calls"]) == (1, 12) and traces["fingerprints"] >= 41


def test_the_table_has_every_row(results):
    text = table(results)
    assert max(map(len, text.splitlines())) <= 100
    assert "generate: 8x8, 16 bits" in text and "decode: 8x8" in text and "traced 1 time over" in text
    assert text.count("\n     4") == 2


def test_a_wrong_formulation_is_not_timed(monkeypatch):
    right = throughput.grouped_modulated_conv

    def wrong(*args, **options):
        return 1.01 * right(*args, **options)

    monkeypatch.setattr(throughput, "grouped_modulated_conv", wrong)
    settings = Settings(batches=(2,), repeats=1, grouped_batch=2, fingerprints=0)
    with pytest.raises(FpganError, match="one of them is wrong"):
        bench(["generate"], TINY, settings)


@pytest.mark.parametrize("tasks, settings, message", [
    (["generates"], Settings(), "no benchmark 'generates'"), ([], Settings(), "no benchmark"),
    (["decode"], Settings(batches=(0,)), "at least 1"), (["train-step"], Settings(), "give --config"),
    (["generate", "train-step"], Settings(), "give --config"),
    (["decode"], Settings(grouped_batch=-1), "grouped_batch is -1"),
    (["decode"], Settings(fingerprints=-5), "fingerprints -5"), (["decode"], Settings(seed=-1), "seed is -1"),
])
def test_senseless_wishes_are_refused_before_anything_is_timed(tasks, settings, message, monkeypatch):
    monkeypatch.setattr("fpgan.benchmarks.bench.random_params", None)
    with pytest.raises(FpganError, match=message):
        bench(tasks, TINY, settings)


@pytest.mark.slow
def test_a_training_step_is_the_sum_of_its_phases():
    training = pytest.importorskip("fpgan.training.config")
    config = training.default()
    config.network.update(TINY.to_dict())
    batch = 4 * jax.device_count()
    part = bench(["train-step"], TINY, Settings(batches=(batch,), repeats=2), training=config)["train-step"]
    row = part["rows"][0]
    assert set(row["phases"]) == {"generator", "path_length", "discriminator", "r1"}
    step = sum(phase["seconds"] / phase["interval"] for phase in row["phases"].values())
    assert row["images_per_second"] == pytest.approx(batch / step)
    assert row["flops_per_image"] > 0


def test_sets_are_timed_beside_generation_and_encoding():
    results = bench(["pipeline"], TINY, Settings((4,), repeats=1, images=70, devices=(1, 3)))
    part = results["pipeline"]
    assert part["images"] == 128 and len(part["rows"]) in (4, 8) and part["virtual"]
    assert [row["devices"] for row in part["rows"]] == sorted([1, 3] * (len(part["rows"]) // 2))
    assert {(row["encoding"], row["container"]) for row in part["rows"]} >= {("png", "files"), ("webp", "files")}
    for row in part["rows"]:
        slower, both = min(row["generate"], row["encode"]), 1 / (1 / row["generate"] + 1 / row["encode"])
        assert row["of_slower"] == pytest.approx(row["whole"] / slower)
        assert row["of_sum"] == pytest.approx(row["whole"] / both) and row["cpu_of_sum"] > 0
    shown = table(results)
    assert "pipeline: 8x8" in shown and "whole set" in shown and max(map(len, shown.splitlines())) <= 112
    assert "the devices are virtual" in shown


def test_the_search_is_timed_beside_a_peer_or_says_why_not(monkeypatch):
    sizes = Settings(batches=(1, 5), repeats=1, registry_sizes=(70_000, 300))
    results = bench(["attribute"], TINY, sizes)
    rows = results["attribute"]["rows"]
    assert [(row["users"], row["images"]) for row in rows] == [(300, 1), (300, 5), (70_000, 1), (70_000, 5)]
    for row in rows:
        assert row["seconds_per_image"] == row["seconds"] / row["images"] > 0 and 0 < row["megabytes"] < 200
        assert (row["faiss_seconds_per_image"] is None) == ("not installed" in results["attribute"]["peer"])
    shown = table(results)
    assert "70,000" in shown and max(map(len, shown.splitlines())) <= 100
    monkeypatch.setitem(sys.modules, "faiss", None)
    without = attribute.bench_attribution((300,), (2,), 1, 0)
    assert without["rows"][0]["faiss_seconds_per_image"] is None and "fpgan[peers]" in attribute.lines(without)[1]
    with pytest.raises(FpganError, match="registry sizes"):
        bench(["attribute"], TINY, Settings(registry_sizes=(0,)))


def test_a_search_that_finds_the_wrong_user_is_not_timed(monkeypatch):
    honest = attribute.find_users
    monkeypatch.setattr(attribute, "find_users", lambda packed, logits, rate: honest(packed[::-1], logits, rate))
    with pytest.raises(FpganError, match="report"):
        attribute.bench_attribution((999,), (20,), 1, 0)


def test_an_instance_is_timed_beside_the_generator_that_it_was_folded_from():
    results = bench(["instance"], TINY, Settings(batches=(1, 3), repeats=3))
    part = results["instance"]
    assert [row["batch"] for row in part["rows"]] == [1, 3]
    for row in part["rows"]:
        assert row["ratio_least"] <= row["ratio"] <= row["ratio_most"] and 0 <= row["relative_difference"] < 1e-4
        assert 0 < row["folded"]["flops_per_image"] < row["fingerprinted"]["flops_per_image"]
    assert 0 < part["parameters"]["folded"] < part["parameters"]["fingerprinted"]
    shown = table(results)
    assert "instance: 8x8" in shown and "parameters instead of" in shown and max(map(len, shown.splitlines())) <= 100


def test_an_instance_that_makes_other_images_is_not_timed(monkeypatch):
    honest = instance.fold
    monkeypatch.setattr(instance, "fold", lambda config, params, bits, label: honest(config, params, 1 - bits, label))
    with pytest.raises(FpganError, match="one of them is wrong"):
        bench(["instance"], TINY, Settings(batches=(2,), repeats=1))


def test_a_registry_is_timed_from_issuing_to_verifying(monkeypatch):
    pytest.importorskip("cryptography", reason="pip install 'fpgan[provider]'")
    monkeypatch.setattr(registry, "MOST_VERIFIED", 500)
    results = bench(["registry"], TINY, Settings(repeats=2, registry_sizes=(5000, 300)))
    small, large = results["registry"]["rows"]
    assert (small["users"], large["users"]) == (300, 5000) and small["verify"] > 0 and large["verify"] is None
    for row in (small, large):
        assert all(row[name] > 0 for name in ("issue_per_second", "open", "issue_one", "prove", "attribute",
                                              "attribute_megabytes", "file_megabytes"))
    shown = table(results)
    assert "5,000" in shown and max(map(len, shown.splitlines())) <= 100
    monkeypatch.setattr(proofs, "audit", lambda base: iter(["entry 3 is missing"]))
    with pytest.raises(FpganError, match="report"):
        registry.bench_registry((3,), 1, 0)
    with pytest.raises(FpganError, match="registry sizes"):
        registry.bench_registry((0,), 1, 0)
