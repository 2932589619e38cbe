"""Splitting a set for handing out: everybody gets their images, and nothing of anybody else's."""

import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
from fake_model import FakeModel

from fpgan.attribution import issue
from fpgan.errors import FpganError
from fpgan.generation.generate import generate_set
from fpgan.generation.handout import LIST, hand_out
from fpgan.generation.manifest import read_manifest
from fpgan.io.images import read_image

USERS = issue(["alice", "bob/..", "Carol"], 64, b"k" * 16)


@pytest.fixture(params=["files", "array_record"])
def made(request, tmp_path):
    """A set of 5 images of each user."""
    if request.param == "array_record":
        pytest.importorskip("array_record")
    generate_set(FakeModel(), USERS, tmp_path / "set", per_user=5, seed=3, container=request.param, batch_size=4,
                 shard_size=4)
    return tmp_path / "set"


def test_each_user_gets_their_images_and_nobody_elses_name_or_fingerprint(made, tmp_path):
    assert hand_out(made, tmp_path / "out") == 3
    lines = list(read_manifest(made))
    archives = sorted((tmp_path / "out").glob("*.zip"))
    assert len(archives) == 3
    seen = set()
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            listed = [json.loads(line) for line in archive.read(LIST).splitlines()]
            user = listed[0]["user"]
            seen.add(user)
            mine = [line for line in lines if line["user"] == user]
            assert [line["sha256"] for line in listed] == [line["sha256"] for line in mine]
            assert sorted(archive.namelist()) == sorted([LIST] + [f"{k:06d}.png" for k in range(5)])
            for line in listed:
                data = archive.read(line["file"])
                assert hashlib.sha256(data).hexdigest() == line["sha256"]
                image = read_image(io.BytesIO(data).getvalue())[0]
                assert (FakeModel().decode(image[None])[0] > 0).tolist() == USERS.fingerprint(user).bits.tolist()
        held = path.read_bytes()
        for other in USERS.users:
            assert (other.encode() in held) == (other == user)
            assert USERS.fingerprint(other).hex.encode() not in held
    assert seen == set(USERS.users)


def test_what_is_there_is_left_and_what_is_missing_is_made_with_the_same_bytes(made, tmp_path):
    hand_out(made, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.zip")}
    assert hand_out(made, tmp_path / "out") == 0
    (tmp_path / "out" / "alice.zip").unlink()
    assert hand_out(made, tmp_path / "out") == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.zip")} == before


def test_an_unfinished_set_is_refused(made, tmp_path):
    next((made / "manifest").iterdir()).unlink()
    with pytest.raises(FpganError, match="1 of 4 shards .* not finished"):
        hand_out(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_not_its_own_ends_it_before_the_archive_appears(tmp_path):
    generate_set(FakeModel(), USERS, tmp_path / "set", per_user=2, seed=0)
    image = tmp_path / "set" / "alice" / "000001.png"
    image.write_bytes(image.read_bytes() + np.zeros(1, np.uint8).tobytes())
    with pytest.raises(FpganError, match="fpgan verify"):
        hand_out(tmp_path / "set", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.zip"))
