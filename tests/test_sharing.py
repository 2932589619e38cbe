"""Whose shard is which, and claims that die with their process."""

import multiprocessing
import os
import signal

import pytest

from fpgan.distributed import work
from fpgan.distributed.environment import Process
from fpgan.distributed.work import begun, claim, remove_leftovers, run_shards, wait_for_claim
from fpgan.errors import FpganError


def test_shares_are_disjoint_and_complete():
    for total in (0, 1, 7, 20):
        for count in (1, 3, 8):
            shards = [shard for index in range(count) for shard in Process(index, count).shards(total)]
            assert sorted(shards) == list(range(total))


def test_a_claim_excludes_and_goes_on_where_it_was_left(tmp_path):
    pytest.importorskip("fcntl")
    first = claim(tmp_path / "a" / "x")
    assert claim(tmp_path / "a" / "x") is None and not first.taken_over
    first.file.write(b"half")
    first.release()
    second = claim(tmp_path / "a" / "x")
    second.file.seek(0)
    assert second.taken_over and second.file.read() == b"half"
    second.remove()
    assert not list((tmp_path / "a").iterdir())


def hold(path, ready):
    held = claim(path)
    ready.set()
    signal.pause()
    held.release()


def test_a_claim_ends_with_its_process(tmp_path):
    pytest.importorskip("fcntl")
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "x", ready))
    holder.start()
    assert ready.wait(120) and claim(tmp_path / "x") is None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(60)
    taken = wait_for_claim(tmp_path / "x", lambda: False)
    assert taken.taken_over
    taken.remove()
    assert wait_for_claim(tmp_path / "x", lambda: True) is None


class Shards:
    """Shards that are finished when they have a file; what was made, skipped and told."""

    def __init__(self, folder):
        self.folder, self.made, self.skipped, self.told, self.calls = folder, [], [], [], 0

    def claim_path(self, shard):
        return self.folder / f".{shard}.claim"

    def is_finished(self, shard):
        return (self.folder / str(shard)).exists()

    def make_many(self, claimed):
        self.calls += 1
        for shard, taken in claimed:
            assert claim(self.claim_path(shard)) is None  # it is held
            (self.folder / str(shard)).touch()
            self.made.append(shard)
            taken.remove()

    def run(self, numbers, report=None):
        run_shards(numbers, self.make_many, claim_path=self.claim_path, is_finished=self.is_finished,
                   report=report or self.told.append, skip=self.skipped.append)


def test_one_loop_makes_what_is_free_and_then_waits_for_what_is_held(tmp_path, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr(work, "_POLL", 0.01)
    shards = Shards(tmp_path)
    (tmp_path / "2").touch()
    died, works = claim(tmp_path / ".0.claim"), claim(tmp_path / ".3.claim")

    def report(line):
        shards.told.append(line)
        assert shards.made[:3] == [1, 4, 5]  # nothing free is left when it waits
        if "shard 0" in line:
            died.release()  # its process died
        else:
            (tmp_path / "3").touch()  # its process has finished it
            works.remove()

    shards.run(iter(range(6)), report)
    assert shards.made == [1, 4, 5, 0] and shards.skipped == [2, 3] and shards.calls == 2 and len(shards.told) == 2
    again = Shards(tmp_path)
    again.run(range(6))
    assert not again.made and again.skipped == list(range(6)) and not again.told


def test_a_shard_that_is_finished_while_it_is_claimed_is_not_made_again(tmp_path, monkeypatch):
    plain = work.claim

    def late(path):
        (tmp_path / "0").touch()  # between our look and our claim, its process has finished it
        return plain(path)

    shards = Shards(tmp_path)
    monkeypatch.setattr(work, "claim", late)
    shards.run([0])
    assert not shards.made and shards.skipped == [0] and not shards.claim_path(0).exists()


def test_leftovers_of_finished_work_are_removed_and_nothing_else(tmp_path):
    for name in ("0", ".0.claim", ".0.0011aabb.tmp", ".hidden"):
        (tmp_path / name).touch()
    remove_leftovers([tmp_path / ".0.claim", tmp_path / ".1.claim"], [tmp_path])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "0"]


def test_a_file_that_its_holder_removes_meanwhile_is_not_taken_for_the_claim(tmp_path, monkeypatch):
    plain, removed = work.lock, []

    def lock(file):
        if not removed:  # the holder is done between our opening and our locking
            removed.append(os.unlink(file.name))
        return plain(file)

    monkeypatch.setattr(work, "lock", lock)
    taken = claim(tmp_path / "x")
    assert os.path.samestat(os.fstat(taken.file.fileno()), os.stat(tmp_path / "x"))
    taken.remove()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(FpganError, match="no locks"):
        claim(tmp_path / "x")


def begin(folder, wanted, name="settings.json"):
    with begun(folder, name, wanted):
        pass


def test_a_folder_belongs_to_one_piece_of_work(tmp_path):
    wanted = {"kind": 1, "size": 3, "names_sha256": "ab"}
    begin(tmp_path / "a", wanted)
    begin(tmp_path / "a", wanted)
    (tmp_path / "a" / "image.png").write_bytes(b"x")
    for other, told in (({"size": 4}, "size 3, not 4"), ({"names_sha256": "cd"}, "other names"),
                        ({"kind": 2}, "not of this"), ({"more": 1}, "more None, not 1")):
        with pytest.raises(FpganError, match=told):
            begin(tmp_path / "a", wanted | other)
    (tmp_path / "b" / "_x").mkdir(parents=True)
    begin(tmp_path / "b", wanted, "_x/settings.json")
    (tmp_path / "b" / "_x" / "settings.json").write_text("[")
    with pytest.raises(FpganError, match="cannot be read"):
        begin(tmp_path / "b", wanted, "_x/settings.json")


def test_a_folder_that_holds_nothing_yet_takes_other_work_unless_somebody_is_at_it(tmp_path):
    begin(tmp_path, {"kind": 1, "size": 3})
    (tmp_path / "manifest").mkdir()
    (tmp_path / "manifest" / ".00000-of-00001.journal").touch()
    with begun(tmp_path, "settings.json", {"kind": 1, "size": 3}):
        with pytest.raises(FpganError, match="size 3, not 4"):
            begin(tmp_path, {"kind": 1, "size": 4})
        begin(tmp_path, {"kind": 1, "size": 3})
    with begun(tmp_path, "settings.json", {"kind": 1, "size": 4}):
        assert '"size": 4' in (tmp_path / "settings.json").read_text()
        with pytest.raises(FpganError, match="size 4, not 3"):
            begin(tmp_path, {"kind": 1, "size": 3})
    (tmp_path / "manifest" / ".00000-of-00001.journal").write_bytes(b"x")
    with pytest.raises(FpganError, match="size 4, not 3"):
        begin(tmp_path, {"kind": 1, "size": 3})
