"""Atomic files, locks and names that every file system takes."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fpgan.errors import FpganError
from fpgan.generation.manifest import folder_name
from fpgan.io import files
from fpgan.io.files import create_file, locked, remove_temporaries, replacing, write_file


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    write_file(tmp_path / "a", b"old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "a") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    write_file(tmp_path / "a", b"new", sync=True)
    assert (tmp_path / "a").read_bytes() == b"new"


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FpganError, match="file/x"):
        write_file(tmp_path / "file" / "x", b"")
    with pytest.raises(FpganError), locked(tmp_path / "file" / "lock"):
        pass


def test_what_the_block_raises_is_not_taken_for_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(BrokenPipeError), replacing(tmp_path / "a"):
        raise BrokenPipeError("a table on standard output")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_created", lambda path, private: open("/dev/full", "wb"))
    for size in (1, 1 << 20):
        with pytest.raises(FpganError, match="/a: cannot be written .*[Ss]pace"):
            write_file(tmp_path / "a", bytes(size))


def test_a_lock_excludes_and_is_released(tmp_path):
    pytest.importorskip("fcntl")
    with locked(tmp_path / "lock", wait=False):
        with pytest.raises(FpganError, match="another process"), locked(tmp_path / "lock", wait=False):
            pass
    with locked(tmp_path / "lock", wait=False):
        pass


def test_folder_names_are_safe_and_distinct():
    users = ["alice", "Alice", "ALICE", "a/b", "../x", ".", "..", "a b", "Zoë", "zoë", "CON", "nul.txt", "x" * 300,
             "x" * 299 + "y", "a.", "settings.json", "manifest", "%61lice", "~", folder_name("Alice"),
             folder_name("x" * 300)]
    names = [folder_name(user) for user in users]
    assert len({name.lower() for name in names}) == len(users)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_%~-][A-Za-z0-9_.%~-]*", name) and len(name) <= 140
        assert not name.endswith(".") and name.split(".")[0].lower() not in ("con", "nul", "settings", "manifest")
    assert folder_name("bob") == "bob" and folder_name("bob@example.org") == "bob%40example.org"


def test_a_file_is_created_once_by_many_at_the_same_time(tmp_path, monkeypatch):
    for links in (True, False):
        if not links:
            monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
        path = tmp_path / f"{links}" / "file"
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda i, path=path: create_file(path, b"%d" % i * 1000), range(40)))
        assert (sum(made) == 1 or not links) and not create_file(path, b"later")
        assert len(set(path.read_bytes().decode())) <= 2 and [p.name for p in path.parent.iterdir()] == ["file"]
    with pytest.raises(FpganError, match="cannot be written"):
        create_file(path / "below a file", b"")


def test_temporary_files_are_removed_by_the_names_of_their_targets(tmp_path):
    for name in (".a.png.00ff00ff.tmp", ".b.png.00ff00ff.tmp", ".a.png.tmp", "a.png", ".a.png.00FF00FF.tmp"):
        (tmp_path / name).touch()
    remove_temporaries([tmp_path / "a.png", tmp_path / "c.png", tmp_path / "no" / "a.png"])
    assert {p.name for p in tmp_path.iterdir()} == {".b.png.00ff00ff.tmp", ".a.png.tmp", "a.png", ".a.png.00FF00FF.tmp"}
