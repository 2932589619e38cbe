"""Files of fpgan's own kinds, damaged or made to hurt: one clear line, in little time and memory; and what systems leave."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fpgan
from fpgan.cli import app
from fpgan.distributed.work import begun
from fpgan.errors import FpganError, shown
from fpgan.generation.manifest import Settings, read_settings
from fpgan.generation.verify import verify_set
from fpgan.io.files import write_file
from fpgan.io.inputs import Field, check_fields, parse_json, read_bytes, read_json
from fpgan.io.unpickle import read_networks
from fpgan.model.format import SHIPPED, read_info
from fpgan.networks.config import NetworkConfig

SETTINGS = {"fpgan_sample_set": 1, "model": "0" * 16, "bits": 64, "users": 3, "users_sha256": "0" * 64,
            "fingerprints_sha256": "0" * 64, "per_user": 4, "seed": 0, "container": "files", "encoding": "png",
            "batch_size": 4, "shard_size": 5}
HOSTILE = [b"", b"[]", b"null", b"1", b"{", b'{"a": 1, "a": 2}', b"[" * 100_000, b'{"a":' * 100_000,
           b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", b"\xff\xfe{", b'{"a": 1' + b"0" * 5000 + b"}", bytes(1000)]
VALUES = [None, True, -1, 0, 2**31, 2**63, 10**12, 1e308, float("nan"), "",
          "x" * 100_000, "\x1b[2J", [], {}, [[]], 1048576, 1.5]


@pytest.mark.parametrize("content", HOSTILE, ids=lambda content: repr(content[:12]))
def test_what_is_no_json_object_is_one_short_line(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(FpganError, match="x.json: cannot be read") as caught:
        read_json(path)
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


def test_sizes_are_bounded_and_only_regular_files_are_read(tmp_path):
    write_file(tmp_path / "big", bytes(101))
    with pytest.raises(OSError, match="larger than the 100 bytes"):
        read_bytes(tmp_path / "big", 100)
    assert read_bytes(tmp_path / "big", 101) == bytes(101)
    if os.name == "posix":
        os.mkfifo(tmp_path / "fifo")
        for path in (tmp_path / "fifo", "/dev/zero", tmp_path):
            with pytest.raises(OSError, match="where a file is expected"):
                read_bytes(path, 100)


@pytest.mark.parametrize("field", [field for field in SETTINGS if field != "fpgan_sample_set"])
def test_settings_of_a_set_are_checked_by_their_schema(tmp_path, field):
    good = {name: value for name, value in SETTINGS.items() if name != "fpgan_sample_set"}
    write_file(tmp_path / "settings.json", json.dumps(SETTINGS).encode())
    assert read_settings(tmp_path) == Settings(**good)
    for value in [*VALUES, "missing"]:
        changed = SETTINGS | {field: value} if value != "missing" else {k: v for k, v in SETTINGS.items() if k != field}
        (tmp_path / "settings.json").write_text(json.dumps(changed))
        try:
            settings = read_settings(tmp_path)
            assert type(getattr(settings, field)) is type(SETTINGS[field]) and settings.shards <= 10**6
        except FpganError as error:
            assert len(str(error)) < 600 and str(error).isprintable()


def test_a_set_of_10_to_12_users_is_refused_at_once(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS | {"users": 10**12}))
    began = time.monotonic()
    with pytest.raises(FpganError, match="expected"):
        verify_set(tmp_path)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("field", list(NetworkConfig().to_dict()))
def test_every_size_of_an_architecture_is_bounded(field):
    good = NetworkConfig().to_dict()
    for value in VALUES:
        began = time.monotonic()
        try:
            NetworkConfig.from_dict(good | {field: value})
        except FpganError as error:
            assert field in str(error) and len(str(error)) < 500 and str(error).isprintable()
        assert time.monotonic() - began < 1
    with pytest.raises(FpganError, match="mapping_layers"):
        NetworkConfig.from_dict(good | {"mapping_layers": 1048576})


def copy_of_shipped(tmp_path):
    shutil.copytree(SHIPPED / "robohash32", tmp_path / "model")
    return tmp_path / "model"


def test_hostile_config_files_of_models(tmp_path):
    path = copy_of_shipped(tmp_path)
    good = json.loads((path / "config.json").read_text())
    for content in HOSTILE:
        (path / "config.json").write_bytes(content)
        with pytest.raises(FpganError, match="config.json"):
            read_info(path)
    for field in ("format_version", "network", "name", "evenness_threshold", "training", "hash"):
        for value in VALUES:
            (path / "config.json").write_text(json.dumps(good | {field: value}))
            try:
                read_info(path)
            except FpganError as error:
                assert len(str(error)) < 700 and str(error).isprintable()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_at_load(tmp_path, bad):
    path = copy_of_shipped(tmp_path)
    arrays = load_file(path / "model.safetensors")
    name = sorted(arrays)[3]
    arrays[name] = arrays[name].copy()
    arrays[name].flat[-1] = bad
    save_file(arrays, path / "model.safetensors")
    with pytest.raises(FpganError, match=f"{name}.*not finite"):
        fpgan.load(path)


def test_one_array_used_again_and_again_is_refused(tmp_path):
    from fpgan.io.unpickle import Network, Refused, _check_total
    array = np.zeros(1000, np.float32)
    networks = tuple(Network(variables={str(i): array for i in range(50)}) for _ in range(4))
    with pytest.raises(Refused, match="used several times"):
        _check_total(networks, 5000)
    loop = Network(variables={"a": array})
    loop.components["self"] = loop
    _check_total((loop, loop), 5000)
    if os.name == "posix":
        os.mkfifo(tmp_path / "x.pkl")
        with pytest.raises(FpganError, match="a FIFO"):
            read_networks(tmp_path / "x.pkl")
    (tmp_path / "y.pkl").write_bytes(pickle.dumps(print))
    with pytest.raises(FpganError, match="refused"):
        read_networks(tmp_path / "y.pkl")


def test_what_operating_systems_leave_is_no_problem_of_a_set(tmp_path):
    for name in ("lost+found", ".Trashes", "System Volume Information", "$RECYCLE.BIN"):
        (tmp_path / "mount" / name).mkdir(parents=True)
    for name in (".DS_Store", "Thumbs.db", "._x", "desktop.ini"):
        write_file(tmp_path / "mount" / name, b"x")
    with begun(tmp_path / "mount", "settings.json", {"kind": 1}):
        pass
    write_file(tmp_path / "used" / "thesis.doc", b"x")
    with pytest.raises(FpganError, match="thesis.doc"), begun(tmp_path / "used", "settings.json", {"kind": 1}):
        pass


def test_schemas_say_what_is_expected():
    fields = {"a": Field(int, 1, 5), "b": Field(str, 0, 3, optional=True),
              "c": Field(float, choices=(1.0, 2.0), optional=True)}
    check_fields({"a": 3, "b": None}, fields, "x")
    for found, told in (({"a": 9}, "from 1 to 5"), ({"a": True}, "a whole number"), ({}, "no field 'a'"),
                        ({"a": 1, "z": 1}, "'z'"),
                        ({"a": 1, "b": "long"}, "characters"), ({"a": 1, "c": 3}, "one of 1.0, 2.0"),
                        ({"a": float("nan")}, "a whole number")):
        with pytest.raises(FpganError, match=told):
            check_fields(found, fields, "x")
    assert shown("\x1b[2J" + "x" * 500).startswith("\\x1b[2Jxxx") and len(shown("x" * 500)) == 203
    assert parse_json(b'{"a": {"b": [1, 2]}}') == {"a": {"b": [1, 2]}}


@pytest.mark.parametrize("error, told", [
    (MemoryError(), "lower --batch-size"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9\nx"), "lower --batch-size"),
    (RuntimeError("Unable to initialize backend 'tpu': no libtpu"), "JAX_PLATFORMS"),
    (FpganError("a\x1b[2Jb"), r"a\\x1b\[2Jb"),
    (OSError(28, "No space left on device", "/x/y"), "/x/y: No space left"),
])
def test_what_machines_lack_is_one_line(monkeypatch, capsys, error, told):
    def fail(*args):
        raise error
    monkeypatch.setattr(app, "_run", fail)
    assert app.main(["generate"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(lines[0])
    monkeypatch.setattr(app, "_run", lambda *args: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        app.main(["generate"])


def test_empty_names_are_refused(capsys):
    for arguments in (["generate", "--out", "", "--fingerprint", "00"], ["decode", "x", "--out="],
                      ["export", "--workdir", "", "--out", "x"]):
        assert app.main(arguments) == 2 and "is empty" in capsys.readouterr().err


def test_names_that_a_terminal_cannot_show_are_escaped(tmp_path):
    name = tmp_path / "Zoë\x1b[2J田.png"
    name.write_bytes(b"x")
    run = subprocess.run([sys.executable, "-c", "import sys; from fpgan.cli.app import main; sys.exit(main())", "decode",
                          str(name), "--out", str(tmp_path / "out.csv")], capture_output=True,
                         env=os.environ | {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "PYTHONUTF8": "0"})
    assert run.returncode == 1 and b"\x1b" not in run.stderr and b"Traceback" not in run.stderr
    assert "Zoë\\x1b[2J田.png" in (tmp_path / "out.csv").read_text(encoding="utf-8")


def test_photos_added_after_preparing_are_told(tmp_path):
    from fpgan.data import sources
    from fpgan.io.images import encode_png
    write_file(tmp_path / "photos" / "1.png", encode_png(np.zeros((8, 8, 3), np.uint8)))
    digest = sources.list_own_images(tmp_path / "photos").digest
    assert not sources._has_changed(tmp_path / "photos", digest)
    write_file(tmp_path / "photos" / "2.png", encode_png(np.zeros((8, 8, 3), np.uint8)))
    assert sources._has_changed(tmp_path / "photos", digest) and not sources._has_changed(tmp_path / "gone", digest)


def test_files_that_are_passed_over_are_counted_in_one_line(capsys):
    from collections import Counter

    from fpgan.cli.terminal import tell_passed_over
    tell_passed_over("decode", Counter([".heic", ".heic", ".txt", ""]))
    assert "4 other files were passed over (2 .heic, 1 .txt, 1 without an ending)" in capsys.readouterr().err


def test_the_backend_of_a_notebook_is_no_matter(tmp_path):
    lines = [json.dumps({"step": i, "images": i, "accuracy": 0.5}) for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-c", "import sys; from fpgan.cli.app import main; sys.exit(main())", "plot", str(tmp_path),
               "--out", str(tmp_path / "x.png"), "--metrics", "accuracy"]
    run = subprocess.run(command, capture_output=True, text=True,
                         env=os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    assert "Traceback" not in run.stderr and "backend" not in run.stderr
