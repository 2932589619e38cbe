"""The user's cache: off by a variable, bounded, whole entries only, whoever writes and whoever is killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fpgan.errors import FpganError
from fpgan.io import cache

HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FPGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    return tmp_path / "cache"


def entries(folder):
    return sorted(path.name for path in folder.glob("programs-*/*-cache"))


def compile_into(view, name, size=10):
    """What JAX does: writes in place."""
    (view / f"{name}-cache").write_bytes(b"x" * size)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("FPGAN_CACHE", "off")
    assert cache.cache_folder() is None
    with cache.compiled_programs() as view:
        assert view is None
    with pytest.raises(FpganError, match="--cache DIR"):
        cache.folder_of("compile")
    monkeypatch.setenv("FPGAN_CACHE", "/somewhere")
    assert cache.cache_folder() == Path("/somewhere")
    assert cache.folder_of("compile") == Path("/somewhere/compile") and cache.folder_of("compile", "/a/b") == Path("/a/b")
    monkeypatch.delenv("FPGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "fpgan"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be passed over, says the standard
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "fpgan"


def test_what_one_process_compiles_the_next_one_finds(folder):
    with cache.compiled_programs() as view:
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(view)
        compile_into(view, "a")
        assert entries(folder) == []  # nobody sees what may be half written
        with cache.compiled_programs() as other:  # JAX has a folder already: the user's, or that of a caller
            assert other is None
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    assert entries(folder) == ["a-cache"] and not list(folder.glob("programs-*/run-*"))
    with cache.compiled_programs() as view:
        assert (view / "a-cache").read_bytes() == b"x" * 10


def test_several_at_once_do_not_disturb_each_other(folder, monkeypatch):
    views = [cache._View(folder / "programs-p") for _ in range(3)]
    for i, view in enumerate(views):
        compile_into(view.own, "same", 7)
        compile_into(view.own, f"own-{i}")
    for view in views:
        view.close()
    assert entries(folder) == ["own-0-cache", "own-1-cache", "own-2-cache", "same-cache"]
    assert not list(folder.glob("programs-*/run-*"))


def test_it_is_bounded_and_what_was_used_lately_stays(folder, monkeypatch):
    monkeypatch.setattr(cache, "MOST_BYTES", 100)
    with cache.compiled_programs() as view:
        for i in range(12):
            compile_into(view, f"e{i:02}", 20)
            os.utime(view / f"e{i:02}-cache", (1000 + i, 1000 + i))
    assert entries(folder) == [f"e{i:02}-cache" for i in range(7, 12)]
    monkeypatch.setattr(cache, "MOST_ENTRIES", 2)
    os.utime(next(folder.glob("programs-*/e07-cache")))
    with cache.compiled_programs():
        pass
    assert entries(folder) == ["e07-cache", "e11-cache"]


def test_what_a_killed_process_leaves_is_removed_and_never_used(folder):
    dead = cache._View(folder / "programs-p")
    compile_into(dead.own, "half")
    alive = cache._View(folder / "programs-p")
    dead._held.close()  # as the end of its process does
    for view in (dead, alive):
        os.utime(view.own, (1000, 1000))
    cache._View(folder / "programs-p").close()
    assert not dead.own.exists() and alive.own.exists() and entries(folder) == []
    alive.close()


def test_a_place_that_cannot_be_written_means_no_cache(folder, monkeypatch):
    folder.write_text("a file")
    with cache.compiled_programs() as view:
        assert view is None
    cache.remember("digest")
    assert not cache.has_seen("digest")


def test_a_folder_of_somebody_else_or_without_locks_is_not_used(folder, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with cache.compiled_programs() as view:
        assert view is None
    monkeypatch.undo()
    monkeypatch.setenv("FPGAN_CACHE", str(folder))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)

    def refuse(file):
        raise FpganError("this file system has no locks")

    monkeypatch.setattr(cache, "lock", refuse)
    with cache.compiled_programs() as view:
        assert view is None
    assert not list(folder.glob("programs-*/*"))


def test_without_hard_links_it_copies(folder, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for _ in range(2):
        with cache.compiled_programs() as view:
            compile_into(view, "a")
    assert entries(folder) == ["a-cache"]


def test_what_is_in_order_is_remembered(folder, monkeypatch):
    assert not cache.has_seen("digest")
    cache.remember("digest")
    assert cache.has_seen("digest") and not cache.has_seen("other")
    monkeypatch.setattr(cache, "MOST_SEEN", 1)
    cache.remember("other")
    assert cache.has_seen("other") and not cache.has_seen("digest")


def test_an_entry_that_is_damaged_costs_time_and_nothing_else(folder):
    """A real program: compiled cold, found warm, and compiled again when the disk has damaged it."""
    script = """if True:
        from fpgan.io.cache import compiled_programs
        with compiled_programs():
            import jax, jax.numpy as jnp
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            print(float(jax.jit(lambda x: jnp.sum(jnp.sin(x) @ x))(jnp.eye(64))))
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE.parent), "FPGAN_CACHE": str(folder)}
    outputs = []
    for _ in range(2):
        outputs.append(subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True))
    found = entries(folder)
    assert found and [done.stderr for done in outputs] == ["", ""]
    for path in folder.glob("programs-*/*-cache"):
        path.write_bytes(path.read_bytes()[:100])
    outputs.append(subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True))
    assert [done.stdout for done in outputs] == [outputs[0].stdout] * 3 and outputs[2].returncode == 0
