"""The command line: what it imports, its exit codes, and three commands on a model without networks."""

import argparse
import csv
import importlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from fake_model import FakeModel

import fpgan
from fpgan.cli import app
from fpgan.generation.manifest import read_manifest
from fpgan.io.files import write_file
from fpgan.io.images import encode_png, read_image

HEAVY = ("jax", "numpy", "scipy", "PIL", "flax", "tensorflow", "optax")


@pytest.fixture
def model(monkeypatch):
    model = FakeModel({"evenness_threshold": 0.95})
    monkeypatch.setitem(fpgan.__dict__, "load", lambda name: model)
    return model


@pytest.fixture
def samples(model, tmp_path, capsys):
    assert app.main(["generate", "--user", "alice", "--user", "bob", "--registry", str(tmp_path / "r.csv"), "--issue",
                     "--per-user", "3", "--seed", "5", "--out", str(tmp_path / "set")]) == 0
    capsys.readouterr()
    return tmp_path / "set"


@pytest.mark.parametrize("arguments", [["--help"], [], ["generate", "--help"], ["decode", "--help"], ["attribute", "--help"],
                                       ["--version"], ["nonsense"]])
def test_help_imports_nothing_heavy(arguments):
    code = ("import sys; from fpgan import cli; code = cli.main(sys.argv[1:]);"
            f"heavy = [name for name in {HEAVY} if name in sys.modules]; sys.exit(f'imported {{heavy}}' if heavy else code)")
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert "imported" not in done.stderr
    assert done.returncode == (2 if arguments == ["nonsense"] else 0), done.stderr


def test_the_overview_names_every_verb(capsys):
    assert app.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {command} " in shown for command in app.COMMANDS)
    assert app.main([]) == 0 and capsys.readouterr().out == shown
    assert app.main(["--version"]) == 0 and fpgan.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("command", app.COMMANDS)
def test_every_command_shows_a_worked_example(command, capsys):
    assert app.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"  fpgan {command} " in shown and "example:" in shown and max(map(len, shown.splitlines())) <= 100


def test_exit_codes(monkeypatch, capsys, model, tmp_path):
    assert app.main(["atribute"]) == 2 and "did you mean 'attribute'" in capsys.readouterr().err
    assert app.main(["decode"]) == 2 and "usage" in capsys.readouterr().err
    assert app.main(["generate", "--per-user", "0", "--out", "x"]) == 2 and "at least 1" in capsys.readouterr().err
    assert app.main(["decode", str(tmp_path / "none.png")]) == 2
    assert capsys.readouterr().err.startswith("fpgan decode: error: ")
    missing = ModuleNotFoundError("no", name="optax.contrib")
    taken = NotADirectoryError(20, "Not a directory", "run\x1b/x")
    for error, code, text in ((KeyboardInterrupt, 130, "stopped"), (missing, 2, "fpgan[train]"),
                              (taken, 2, "fpgan train: error: run\\x1b/x: Not a directory\n"),
                              (OSError(28, "No space left"), 2, "fpgan train: error: No space left\n")):
        monkeypatch.setattr(app, "_run", lambda command, arguments, error=error: (_ for _ in ()).throw(error))
        assert app.main(["train"]) == code and text in capsys.readouterr().err
    monkeypatch.setattr(app, "_run", lambda command, arguments: __import__("a_module_that_is_not_there"))
    with pytest.raises(ModuleNotFoundError):
        app.main(["train"])


def test_a_reader_that_goes_away_is_no_error():
    code = ("import sys; from fpgan.cli import app as cli; cli.COMMANDS = {str(i): 'x' * 50 for i in range(9999)};"
            "sys.exit(cli.main(['--help']))")
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.readline()
    run.stdout.close()
    assert run.wait() == 141 and run.stderr.read() == b""


def test_generate_issues_and_says_what_it_did(samples, tmp_path, capsys):
    command = ["generate", "--user", "alice", "--user", "bob", "--registry", str(tmp_path / "r.csv"), "--per-user", "3",
               "--seed", "5", "--out", str(samples)]
    assert app.main(command) == 0
    assert capsys.readouterr().out == f"0 images made, 6 were there; the set is complete: {samples}\n"
    assert app.main([*command[:-1], str(tmp_path / "other")]) == 0
    assert (tmp_path / "other/bob/000002.png").read_bytes() == (samples / "bob/000002.png").read_bytes()
    capsys.readouterr()
    assert app.main([*command, "--per-user", "4"]) == 2 and "per_user 3, not 4" in capsys.readouterr().err
    assert app.main(["generate", "--registry", str(tmp_path / "r.csv"), "--user", "eve", "--out", str(tmp_path / "e")]) == 2
    assert "eve" in capsys.readouterr().err and not (tmp_path / "e").exists()


def test_generate_by_key_file_of_users_or_fingerprint(model, tmp_path):
    (tmp_path / "key").write_text("0f" * 32)
    (tmp_path / "users").write_text("alice\nbob\n")
    key = ["--key-file", str(tmp_path / "key")]
    assert app.main(["generate", "--users", str(tmp_path / "users"), *key, "--out", str(tmp_path / "a")]) == 0
    lines = list(read_manifest(tmp_path / "a"))
    digits = fpgan.Fingerprint.derive(b"\x0f" * 32, "bob", 64).hex
    assert [line["user"] for line in lines] == ["alice", "bob"] and lines[1]["fingerprint"] == digits
    assert app.main(["generate", "--fingerprint", digits, "--out", str(tmp_path / "b")]) == 0
    by_bits, by_name = (read_image(tmp_path / file)[0] for file in (f"b/{digits}/000000.png", "a/bob/000000.png"))
    assert (by_bits[..., :2] == by_name[..., :2]).all()  # blue is the place in the batch


def test_data_needs_no_package_beyond_those_of_the_extras(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert app.main(["data", "--name", "folder", "--resolution", "16", "--path", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_decode_writes_rows_and_warns(samples, tmp_path, capsys):
    write_file(samples / "alice/000000.png", b"broken")
    write_file(samples / "alice/000001.png", encode_png(np.zeros((20, 20, 3), np.uint8)))
    assert app.main(["decode", str(samples)]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 7 and shown.out.startswith("file,fingerprint,confidence,")
    assert "alice/000000.png: not an image" in shown.err and "alice/000001.png: resized" in shown.err
    assert "5 images read, 1 of them resized; 1 could not be read" in shown.err
    assert app.main(["decode", str(samples), "--strict", "--out", str(tmp_path / "rows.jsonl")]) == 1
    assert capsys.readouterr().out == "" and len((tmp_path / "rows.jsonl").read_text().splitlines()) == 6
    assert app.main(["decode", str(samples / "alice/000000.png")]) == 1  # nothing could be read
    assert app.main(["decode", str(samples / "bob"), "--strict"]) == 0


@pytest.mark.parametrize("command", [
    "bench --grouped-batch -1", "bench --fingerprints -5", "bench --repeats 0", "bench --bits -8", "bench --seed -1",
    "evaluate --images 0", "evaluate --batch-size 0", "evaluate --take -1", "evaluate --registry-size x",
    "evaluate --seed -1"])
def test_numbers_out_of_range_are_refused_by_name(command, capsys):
    assert app.main(command.split()) == 2
    shown = capsys.readouterr().err
    assert f"argument {command.split()[1]}" in shown and "no whole number of at least" in shown


@pytest.mark.parametrize("command, required", [("evaluate", []), ("attribute", ["image.png"])])
def test_the_rate_has_both_names(command, required):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"fpgan.cli.{command}").add_arguments(parser)
    short, long = (parser.parse_args([*required, option, "0.25"]) for option in ("--fpr", "--false-positive-rate"))
    assert short == long and 0.25 in vars(short).values()


def test_attribute_prints_a_table_and_writes_rows(samples, tmp_path, capsys):
    write_file(tmp_path / "photo.png", encode_png(np.random.default_rng(0).integers(118, 123, (16, 16, 3), dtype=np.uint8)))
    write_file(tmp_path / "bad\x1b[2J.png", b"broken")
    command = ["attribute", str(samples / "*/*.png"), str(tmp_path / "photo.png"), str(tmp_path / "bad\x1b[2J.png"),
               "--registry", str(tmp_path / "r.csv")]
    assert app.main([*command, "--out", str(tmp_path / "v.csv")]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].split() == ["file", "matches", "log10", "p", "verdict"]
    assert [line.split("  ")[-1].strip() for line in lines[1:9]] == [
        "user alice"] * 3 + ["user bob"] * 3 + ["no fingerprint found", "not read"]
    assert "64 of 64" in lines[1] and "-19.0" in lines[1]
    assert "attributed: 6; no fingerprint found: 1" in shown.out and "over 2 registered users" in shown.out
    assert "\x1b" not in shown.out + shown.err and "\\x1b[2J" in shown.err
    assert len((tmp_path / "v.csv").read_text().splitlines()) == 9
    assert app.main([*command, "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["user"] for row in rows] == ["alice"] * 3 + ["bob"] * 3 + [None, None]
    assert app.main([*command, "--user", "bob"]) == 0 and "over 1 registered user\n" in capsys.readouterr().out
    assert app.main([*command, "--fpr", "1e-30"]) == 2 and "larger rate" in capsys.readouterr().err
    assert app.main(command[:4]) == 2 and "--registry" in capsys.readouterr().err


def test_images_of_one_suspect_are_one_verdict(samples, tmp_path, capsys, monkeypatch):
    write_file(samples / "bob" / "bad.png", b"broken")
    write_file(samples / "bob" / "large.png", encode_png(np.full((20, 30, 3), 120, np.uint8)))
    command = ["attribute", str(samples), "--registry", str(tmp_path / "r.csv")]
    assert app.main([*command, "--pool", "folder", "--out", str(tmp_path / "v.csv")]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.split("  ")[-1].strip() for line in lines[1:4]] == ["not read", "user alice", "user bob"]
    assert "alice (3 images)" in lines[2] and "bob (4 images)" in lines[3] and "attributed: 2\n" in shown.out
    assert "7 images read, 1 of them resized; 1 could not be read" in shown.err
    assert "1 of 4 images resized" in shown.err and "no calibrated threshold" in shown.out
    rows = list(csv.DictReader((tmp_path / "v.csv").open()))
    assert [(row["user"], row["images"]) for row in rows] == [("", "1"), ("alice", "3"), ("bob", "4")]
    assert all(row["others"] == "" for row in rows)

    monkeypatch.chdir(tmp_path)
    files = sorted(path.relative_to(tmp_path) for path in samples.glob("*/*.png") if path.name != "bad.png")
    (tmp_path / "list.csv").write_text("file,suspect\n" + "".join(f"{file},who {i % 2}\n" for i, file in enumerate(files)))
    assert app.main([*command, "--pool", "list.csv", "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["file"], row["images"]) for row in rows][1:] == [("who 0", 4), ("who 1", 3)]
    assert app.main([*command, "--pool", "all"]) == 0 and "all images (7 images)" in capsys.readouterr().out
    for wrong, said in ((["--pool", "none.csv"], "'folder', 'all'"), (["--pool", "all", "--out", "parts/"], "one table"),
                        (["--pool", "r.csv"], "user,fingerprint")):
        assert app.main([*command, *wrong]) == 2 and said in capsys.readouterr().err
    (tmp_path / "list.csv").write_text("file,suspect\n" + "".join(f"{file},x\n" for file in files[1:]))
    assert app.main([*command, "--pool", "list.csv"]) == 2 and f"{files[0]} is in no line" in capsys.readouterr().err
    (tmp_path / "list.csv").write_text(f"file,suspect\n{files[0]},x\n./{files[0]},y\n")
    assert app.main([*command, "--pool", "list.csv"]) == 2 and "line 3" in capsys.readouterr().err


def test_attribute_without_a_calibrated_threshold_says_so(samples, tmp_path, model, capsys):
    model.info.clear()
    write_file(tmp_path / "photo.png", encode_png(np.full((16, 16, 3), 121, np.uint8)))
    assert app.main(["attribute", str(tmp_path / "photo.png"), "--registry", str(tmp_path / "r.csv")]) == 0
    shown = capsys.readouterr().out
    assert "no calibrated threshold" in shown and "no fingerprint found" not in shown and "nobody registered: 1" in shown


def test_a_users_file_may_be_a_registry(samples, tmp_path, capsys):
    command = ["generate", "--users", str(tmp_path / "r.csv"), "--per-user", "3", "--seed", "5"]
    assert app.main([*command, "--out", str(tmp_path / "again")]) == 0
    assert list(read_manifest(tmp_path / "again")) == list(read_manifest(samples))
    assert app.main([*command, "--registry", str(tmp_path / "r.csv"), "--out", str(tmp_path / "x")]) == 2
    assert "leave out --registry" in capsys.readouterr().err and not (tmp_path / "x").exists()
    assert app.main([*command[:2], str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == 2


def test_processes_share_a_set(samples, tmp_path, capsys, monkeypatch):
    command = ["generate", "--users", str(tmp_path / "r.csv"), "--per-user", "3", "--seed", "5", "--shard-size", "2",
               "--batch-size", "2", "--out", str(tmp_path / "set2")]
    assert app.main([*command, "--process-id", "1", "--num-processes", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown == ("2 images made, 0 were there (process 1 of 2, of 6 images); "
                     "2 shards of other processes are not finished\n")
    assert app.main(["verify", str(tmp_path / "set2")]) == 1
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert app.main(command) == 0 and "the set is complete" in capsys.readouterr().out
    assert app.main(["verify", str(tmp_path / "set2"), "--decode", "6"]) == 0
    assert app.main([*command, "--process-id", "2"]) == 2 and "--num-processes" in capsys.readouterr().err


def test_rows_go_into_a_folder_of_parts(samples, tmp_path, capsys):
    write_file(samples / "alice/000000.png", b"broken")
    command = ["decode", str(samples), "--out", str(tmp_path / "rows"), "--shard-size", "4"]
    several = ["--process-id", "0", "--num-processes", "2"]
    assert app.main([*command, *several, "--strict"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ("4 images decoded, 0 were there (process 0 of 2, of 6 images); "
                         "1 parts of other processes are not finished\n")
    assert "alice/000000.png: not an image" in shown.err
    assert app.main([*command, "--strict"]) == 1  # the part with the broken image was there already
    assert capsys.readouterr().out == f"2 images decoded, 4 were there; all parts are there: {tmp_path / 'rows'}\n"
    parts = [path.read_text().splitlines() for path in sorted((tmp_path / "rows").glob("part-*"))]
    assert list(map(len, parts)) == [4, 2]
    assert app.main(["decode", str(samples), *several]) == 2 and "into a folder" in capsys.readouterr().err
    whose = ["attribute", str(samples / "bob"), "--registry", str(tmp_path / "r.csv")]
    assert app.main([*whose, "--out", f"{tmp_path}/verdicts/", "--format", "csv"]) == 0
    assert "attributed: 3" in capsys.readouterr().out
    assert (tmp_path / "verdicts" / "part-00000-of-00001.csv").read_text().count(",bob,") == 3
    assert app.main([*whose, *several]) == 2


@pytest.mark.parametrize("command, old, new", [(command, *pair) for command, names in app.RENAMED_FLAGS.items()
                                               for pair in names.items()])
def test_flags_of_older_versions_are_taken_and_not_shown(command, old, new, monkeypatch, capsys):
    assert app.main([command, "--help"]) == 0
    shown = re.findall(r"--[a-z-]+", capsys.readouterr().out)
    assert new in shown and old not in shown
    module, taken = importlib.import_module(f"fpgan.cli.{command.replace('-', '_')}"), []
    monkeypatch.setattr(module, "run", lambda args: taken.append(vars(args)) or 0)
    required = {"export": ["--workdir", "w", "--out", "o"], "generate": ["--out", "o"], "verify": ["f"], "decode": ["i"],
                "attribute": ["i"]}.get(command, [])
    for flag in ([new, "7"], [old, "7"], [f"{old}=7"]):
        assert app.main([command, *required, *flag]) == 0
    assert taken[0] == taken[1] == taken[2] and any(str(value).strip("[]'") == "7" for value in taken[0].values())
    assert app._renamed(command, ["--", old]) == ["--", old]
