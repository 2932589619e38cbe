"""Traces: the steps that were asked for, summed up by operation."""

import jax
import jax.numpy as jnp
import pytest
from test_bench import TINY

from fpgan.benchmarks import throughput, trace
from fpgan.benchmarks.bench import bench
from fpgan.benchmarks.timing import Settings
from fpgan.distributed.profiler import StepTrace, parse_steps, tracing
from fpgan.errors import FpganError


def test_a_loop_is_traced_at_the_steps_that_were_asked_for(tmp_path):
    product = jax.jit(lambda x: jnp.tanh(x @ x))
    x = jnp.eye(200)
    with StepTrace(tmp_path / "profile", 12, 15) as steps, jax.transfer_guard("disallow"):
        for number, batch in enumerate(steps.follow(range(10, 20), 10), 10):
            assert number == batch
            x = product(x)
        assert steps.written
    found, operations = trace._read(next((tmp_path / "profile").rglob("*.xplane.pb")))
    assert [name for _, _, name in found] == ["step"] * 3 and operations
    _, _, row, *_ = lines = trace.summary(tmp_path / "profile")
    assert max(map(len, lines[1:])) <= 100 and row.split()[:2] == ["step", "3"]


def test_a_trace_ends_with_the_run_and_may_never_begin(tmp_path):
    with StepTrace(tmp_path / "short", 1, 9) as steps:
        for _ in steps.follow(range(3), 0):
            jnp.ones(3) + 1
    assert steps.written and list((tmp_path / "short").rglob("*.xplane.pb"))
    with StepTrace(tmp_path / "none", 5, 9) as steps:
        list(steps.follow(range(3), 0))
    assert not steps.written and not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["100", "10:", ":10", "10:10", "20:10", "-1:5", "a:b", "1:2:3"])
def test_steps_are_given_as_first_and_stop(text):
    assert parse_steps("100:110") == (100, 110)
    with pytest.raises(FpganError, match="expected FIRST:STOP"):
        parse_steps(text)


def test_a_benchmark_is_traced_and_summed_up(tmp_path, monkeypatch):
    monkeypatch.setitem(throughput._PEAK_SIDE, "cpu", 64)
    with tracing(tmp_path):
        bench(["decode"], TINY, Settings(batches=(4,), repeats=3, grouped_batch=0, fingerprints=0))
    lines = trace.summary(tmp_path)
    row = next(line for line in lines if line.startswith("4 "))
    assert row.split()[1] == "3" and row.count("%") == len(trace.KINDS)
    shares = [float(part.split("%")[0].split()[-1]) for part in row.split(",")[1:]]
    assert 98 <= sum(shares) <= 102


@pytest.mark.parametrize("operation, kind", [
    ("ynn_fusion", trace.COMPUTE), ("conv_general_dilated", trace.COMPUTE), ("dot", trace.COMPUTE),
    ("transpose_copy_fusion", trace.MOVE), ("wrapped_pad", trace.MOVE), ("copy", trace.MOVE), ("dynamic-slice", trace.MOVE),
    ("multiply_pad_fusion", trace.REST), ("reduce_add_fusion", trace.REST), ("all-reduce-start", trace.EXCHANGE)])
def test_operations_have_a_kind(operation, kind):
    assert trace.kind_of(operation) == kind


def test_no_trace_is_told(tmp_path):
    with pytest.raises(FpganError, match="holds no trace"):
        trace.summary(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FpganError, match="no trace can be recorded"), tracing(tmp_path / "file"):
        pass
