"""Programs for TPUs that are not there: what is read from their text, what it bounds, the cache, and the compiler itself."""

import gzip
import importlib.util
import json

import jax
import numpy as np
import pytest

from fpgan.benchmarks import compile as compiling
from fpgan.benchmarks.bench import bench, table
from fpgan.benchmarks.cost_model import CHIPS, V5E, V5P, bound, ring_seconds
from fpgan.benchmarks.program_text import collectives, estimated_cycles, memory_traffic
from fpgan.benchmarks.timing import Settings
from fpgan.cli import main
from fpgan.errors import FpganError
from fpgan.networks.config import NetworkConfig

# As a TPU's compiler prints it, abridged. Padded: bf16[8,100] in tiles of 8 x 128 is 8 x 128; in S(1) is no main memory.
TEXT = """\
HloModule jit__fun, is_scheduled=true, entry_computation_layout={(f32[16,128]{1,0:T(8,128)})->f32[]}

%fused (param_0.1: bf16[64,100], param_1.1: s32[]) -> bf16[8,100] {
  %param_0.1 = bf16[64,100]{1,0:T(8,128)(2,1)} parameter(0)
  %param_1.1 = s32[]{:T(128)} parameter(1)
  ROOT %slice.1 = bf16[8,100]{1,0:T(8,128)(2,1)S(1)} dynamic-slice(%param_0.1, %param_1.1), dynamic_slice_sizes={8,100}
}

%body (arg: (s32[], f32[16,128])) -> (s32[], f32[16,128]) {
  %arg = (s32[]{:T(128)S(6)}, f32[16,128]{1,0:T(8,128)}) parameter(0)
  %x = f32[16,128]{1,0:T(8,128)} get-tuple-element(%arg), index=1
  %twice = f32[16,128]{1,0:T(8,128)} add(%x, %x), metadata={op_name="jit(_fun)/shard_map/loop/add"}, \
backend_config={"window_config":{"estimated_cycles":"10"}}
  ROOT %pair = (s32[]{:T(128)S(6)}, f32[16,128]{1,0:T(8,128)}) tuple(%x, %twice)
}

ENTRY %main.76_spmd (param.1: f32[16,128], param.2: bf16[64,100]) -> f32[] {
  %param.1 = f32[16,128]{1,0:T(8,128)} parameter(0), metadata={op_name="flat_args[0]"}
  %param.2 = bf16[64,100]{1,0:T(8,128)(2,1)} parameter(1)
  %copy-start.1 = (f32[16,128]{1,0:T(8,128)S(1)}, f32[16,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%param.1)
  %copy-done.1 = f32[16,128]{1,0:T(8,128)S(1)} copy-done(%copy-start.1)
  %zero = s32[]{:T(128)S(6)} constant(0)
  %fusion.1 = bf16[8,100]{1,0:T(8,128)(2,1)S(1)} fusion(%param.2, %zero), kind=kLoop, calls=%fused, \
metadata={op_name="jit(_fun)/shard_map/jvp(Net)/b32/conv/mul"}, backend_config={"window_config":{"estimated_cycles":"700"}}
  %init = (s32[]{:T(128)S(6)}, f32[16,128]{1,0:T(8,128)}) tuple(%zero, %param.1)
  %loop = (s32[]{:T(128)S(6)}, f32[16,128]{1,0:T(8,128)}) while(%init), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %all-reduce.137 = (f32[1]{0:T(128)S(1)}, /*index=1*/f32[3,3,8]{2,1,0:T(8,128)S(1)}) all-reduce(%a, /*index=1*/%b), \
channel_id=1, metadata={op_name="jit(_fun)/shard_map/psum"}
  %all-gather-start.1 = (f32[4]{0}, f32[16]{0}) all-gather-start(%c), dimensions={0}
  %all-gather-done.1 = f32[16]{0:T(128)S(1)} all-gather-done(%all-gather-start.1)
  ROOT %convolution.1 = f32[] convolution(%fusion.1), metadata={op_name="jit(_fun)/shard_map/jvp(Net)/b32/conv/mul"}, \
backend_config={"estimated_cycles":"50"}
}
"""


def test_collectives_are_counted_with_the_bytes_of_their_results():
    assert collectives(TEXT) == {"all-reduce": {"count": 1, "bytes": 4 * (1 + 72)}, "all-gather": {"count": 1, "bytes": 64}}
    assert collectives("") == {}


def test_cycles_are_summed_by_operation_and_loops_count_as_often_as_they_run():
    assert estimated_cycles(TEXT) == {"jvp(Net)/b32/conv/mul": 750, "loop/add": 5 * 10}
    assert estimated_cycles("ENTRY %main (p: f32[]) -> f32[] {\n  ROOT %p = f32[] parameter(0)\n}") == {}


def test_only_what_goes_to_and_from_main_memory_is_traffic():
    copied, summed, gathered, result = 4 * 16 * 128, 5 * 3 * 4 * 16 * 128, 4 * 16, 4
    sliced = {"bytes": 2 * 8 * 128, "unpadded": 2 * 8 * 100}  # the part that the fusion reads, not all 64 rows
    padded = {"bytes": 4 * 128, "unpadded": gathered}  # 16 numbers lie in a tile of 128
    for key, moved in memory_traffic(TEXT).items():
        assert moved == copied + summed + sliced[key] + padded[key] + result, key


def row(**changes):
    return {"flops": 197e9, "batch": 8, "traffic": {"bytes": 819e5},
            "collectives": {"all-reduce": {"count": 1, "bytes": 10**6}},
            "cycles": {"a": 2_000_000, "b": 1_006_164}} | changes


def test_a_bound_by_hand():
    assert V5E.clock == pytest.approx(1.503e9, rel=1e-3) and V5P.clock == pytest.approx(1.751e9, rel=1e-3)
    found, reduce = bound(V5E, 8, row()), ring_seconds(1e6, 8, 100e9, 1e-6)
    assert found["compute_seconds"] == pytest.approx(1e-3) and found["memory_seconds"] == pytest.approx(1e-4)
    assert found["seconds"] == pytest.approx(1e-3 + reduce) and found["mfu"] == pytest.approx(1e-3 / (1e-3 + reduce))
    assert found["expected_seconds"] == pytest.approx(2e-3 + reduce, rel=1e-4)
    assert found["intensity"] == pytest.approx(197e9 / 819e5)
    starved = bound(V5E, 1, row(traffic={"bytes": 819e7}, collectives={}))
    assert starved["seconds"] == starved["memory_seconds"] == pytest.approx(1e-2) and starved["mfu"] == pytest.approx(0.1)
    assert starved["all_reduce_seconds"] == 0


@pytest.mark.parametrize("holds", [0, 3, 4, 7, 8, 60, 100, 127, 500])
def test_the_largest_batch_is_found_by_bisection(holds):
    tried = []

    def fits(batch):
        tried.append(batch)
        return batch <= holds

    assert compiling.largest_batch(fits, 4, most=100) == min(holds, 100) // 4 * 4
    assert len(tried) == len(set(tried)) <= 11 and all(batch % 4 == 0 for batch in tried)


class Compiled:
    """Stands for a compiled program."""

    def cost_analysis(self):
        return {"flops": 2e9, "bytes accessed": 3e6, "optimal_seconds": -4.0}

    def memory_analysis(self):
        sizes = {f"{name}_size_in_bytes": 10**6 for name in ("argument", "output", "alias", "temp", "generated_code")}
        return type("Memory", (), sizes | {"peak_memory_in_bytes": 4 * 10**6})

    def as_text(self):
        return TEXT


class Lowered:
    """Stands for a lowered program, which counts how often it is compiled and holds at most 24 images."""

    compiled = []

    def __init__(self, name, batch):
        self.name, self.batch = name, batch

    def as_text(self):
        return f"{self.name} {self.batch}"

    def compile(self):
        self.compiled.append(self.as_text())
        if self.batch > 24:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM\nand more")
        return Compiled()


@pytest.fixture
def stand_ins(monkeypatch):
    """The slice and the compiler are made up; everything else is real."""
    monkeypatch.setattr(compiling, "describe_slice", lambda name: compiling.Slice(name, range(4), V5E))
    monkeypatch.setattr(compiling.importlib.metadata, "version", lambda name: f"{name} 1")
    monkeypatch.setattr(compiling, "candidates", lambda config, slice_: [
        compiling.Candidate(name, interval, lambda batch, name=name: Lowered(name, batch))
        for name, interval in (("generator", 1), ("r1", 16), ("generate", 0))])
    monkeypatch.setattr(Lowered, "compiled", [])


@pytest.fixture
def config():
    return pytest.importorskip("fpgan.training.config").default()


def run(config, tmp_path, **changes):
    settings = Settings(topology="v5e:2x2", cache=str(tmp_path / "cache"), **changes)
    return bench(["compile"], NetworkConfig(), settings, training=config)


def test_results_are_cached_and_a_stopped_run_goes_on(stand_ins, config, tmp_path):
    run(config, tmp_path, programs=("generator",))
    whole = run(config, tmp_path)
    assert Lowered.compiled == ["generator 8", "r1 8", "generate 8"]
    assert run(config, tmp_path)["compile"] == whole["compile"] and len(Lowered.compiled) == 3
    files = sorted(path.suffix for path in (tmp_path / "cache").iterdir())
    assert files == [".gz"] * 3 + [".json"] * 3
    for path in (tmp_path / "cache").glob("*generator*.gz"):
        assert gzip.decompress(path.read_bytes()).decode() == TEXT
    part = whole["compile"]
    assert [r["optimal_seconds"] for r in part["rows"]] == [None] * 3  # it was negative
    step = part["rows"][0]["bound"]["seconds"] + part["rows"][1]["bound"]["seconds"] / 16
    assert part["step"]["seconds"] == pytest.approx(step) and part["step"]["images_per_second"] == pytest.approx(32 / step)
    assert json.loads(json.dumps(part)) == part
    shown = table(whole)
    assert "none" in shown and "all-reduce 0.0" in shown and max(map(len, shown.splitlines())) <= 125


def test_a_damaged_result_is_told_in_one_line(stand_ins, config, tmp_path):
    run(config, tmp_path, programs=("generate",))
    for path in (tmp_path / "cache").iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[:len(whole) // 2])
        with pytest.raises(FpganError, match=r"\.json.*; remove it to compile generate again"):
            run(config, tmp_path, programs=("generate",))
        path.write_bytes(whole)


def test_what_does_not_fit_says_so_and_the_largest_batch_is_searched(stand_ins, config, tmp_path):
    shown = table(run(config, tmp_path, device_batch=32))
    assert "r1             does not fit: RESOURCE_EXHAUSTED: Ran out of memory on HBM" in shown and "a step" not in shown
    found = run(config, tmp_path, largest_batch=True, programs=("generate",))["compile"]
    assert [r["largest_batch"] for r in found["rows"]] == [24] and found["step"] is None
    with pytest.raises(FpganError, match="no program 'discriminate'.*generator, r1, generate"):
        run(config, tmp_path, programs=("discriminate",))


def test_without_the_compiler_the_extra_is_named(config, tmp_path, monkeypatch):
    def missing(name):
        raise compiling.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(compiling.importlib.metadata, "version", missing)
    with pytest.raises(FpganError, match=r"pip install 'fpgan\[tpu-compile\]'"):
        compiling.describe_slice("v5e:2x2")


def test_a_field_of_no_config_is_refused(capsys):
    assert main(["bench", "compile", "batch_size=8"]) == 2
    assert "'batch_size=8' sets a field of a config" in capsys.readouterr().err


needs_compiler = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None,
                                    reason="libtpu, the TPU's compiler, is not installed: pip install 'fpgan[tpu-compile]'")


@pytest.mark.slow
@needs_compiler
def test_the_smoke_config_compiles_for_a_slice_that_is_not_there(tmp_path):
    load = pytest.importorskip("fpgan.training.config").load
    part = bench(["compile"], NetworkConfig(), Settings(topology="v5e:2x2", cache=str(tmp_path)),
                 training=load("configs/smoke.py"))["compile"]
    rows = {r["program"]: r for r in part["rows"]}
    assert list(rows) == ["generator", "discriminator", "r1", "generate", "decode", "bits"] and part["chips"] == 4
    gradients = {"generator": 1_054_000, "discriminator": 290_000, "r1": 290_000}
    for name, r in rows.items():
        assert r["fits"] and r["flops"] > 0 and 0 < r["traffic"]["unpadded"] <= r["traffic"]["bytes"]
        assert 0 < r["memory"]["peak"] < V5E.memory and sum(r["cycles"].values()) > 0
        assert 0 < r["bound"]["expected_mfu"] < r["bound"]["mfu"] <= 1
        reduced = r["collectives"].get("all-reduce", {"bytes": 0})["bytes"]
        assert set(r["collectives"]) <= {"all-reduce"} and reduced == pytest.approx(gradients.get(name, reduced), rel=0.01)
    assert not rows["generate"]["collectives"] and part["step"]["images_per_second"] > 0


@pytest.mark.slow
@needs_compiler
def test_no_slice_of_that_name_is_one_line():
    for name in ("v5e:3x9", "v99:2x2", "nonsense"):
        with pytest.raises(FpganError, match=f"no TPU slice '{name}'"):
            compiling.describe_slice(name)
    assert set(CHIPS.values()) == {V5E, V5P}
    devices = compiling.describe_slice("v5p:2x2x1")
    assert len(devices.devices) == 4 and devices.chip is V5P and np.unique([d.id for d in devices.devices]).size == 4
