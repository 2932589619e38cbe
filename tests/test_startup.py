"""The first answer of `fpgan attribute`: quick when compiled programs are kept, and nothing of it in the user's folders."""

import subprocess
import sys

import pytest

from fpgan.benchmarks.startup import bench_startup, lines
from fpgan.cli import app


@pytest.mark.slow
def test_a_warm_start_compiles_nothing_and_leaves_the_users_folders_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = bench_startup("robohash32", 2)
    cpu = {row["what"]: row["cpu_seconds"] for row in result["rows"]}
    assert list(cpu) == ["import jax", "attribute, no cache", "attribute, cold", "attribute, warm"]
    assert cpu["attribute, warm"] < 0.8 * min(cpu["attribute, cold"], cpu["attribute, no cache"])
    assert cpu["attribute, warm"] < 3 * cpu["import jax"]
    assert max(map(len, lines(result))) <= 100 and not list(tmp_path.iterdir())


def test_commands_that_run_networks_keep_programs_and_the_others_do_not(tmp_path, monkeypatch):
    monkeypatch.setenv("FPGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    seen = []
    monkeypatch.setattr(app, "_run_module", lambda module, command, arguments: seen.append(
        (command, app.os.environ.get("JAX_COMPILATION_CACHE_DIR"))) or 0)
    for command in ("attribute", "plot", "bench"):
        assert app.main([command]) == 0
    kept = dict(seen)
    assert kept["attribute"].startswith(str(tmp_path / "cache")) and kept["plot"] is None and kept["bench"] is None
    assert not list((tmp_path / "cache").glob("programs-*/run-*"))


def test_what_a_verdict_does_not_need_is_not_imported():
    code = ("import sys; from fpgan.decoding.decode import DecodeJob; import fpgan.model.model, fpgan.attribution.verdict, "
            "fpgan.cli.reading, fpgan.cli.attribute; print(*{name.partition('.')[0] for name in sys.modules})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"jax", "flax", "fpgan"} <= imported
    assert not imported & {"scipy", "optax", "orbax", "grain", "pyarrow", "skimage", "matplotlib", "tensorflow_datasets"}
