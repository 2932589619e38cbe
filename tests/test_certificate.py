"""Certificates through the command line: who checks with what, and every change that has to be noticed."""

import json
import os
import shutil

import numpy as np
import pytest

from fpgan.attribution.database import Database
from fpgan.cli.app import main
from fpgan.io import ledger
from fpgan.io.images import encode_png
from fpgan.model import load
from fpgan.perturbations import apply


def run(*arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Alice's images, noise, a registry in which alice is revoked, and a certificate about them as they are."""
    pytest.importorskip("cryptography", reason="pip install 'fpgan[provider]'")
    desk = tmp_path_factory.mktemp("desk")
    run("registry", "init", desk / "r", "--signing-key", desk / "provider.pem")
    run("registry", "issue", desk / "r", "--user", "alice", "--user", "bob", "--signing-key", desk / "provider.pem")
    run("registry", "issue", desk / "r", "--count", "300")
    with Database(desk / "r") as base:
        images = load().generate(base.select(["alice"]).fingerprint("alice"), [3, 4])
    (desk / "found").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, images[0].shape)
    for name, image in (("a", images[0]), ("b", images[1]), ("noise", noise)):
        (desk / "found" / f"{name}.png").write_bytes(encode_png(image.astype(np.uint8)))
    run("registry", "revoke", desk / "r", "--user", "alice", "--why", "resold")
    run("attribute", desk / "found", "--registry", desk / "r", "--certificate", desk / "c.json", "--search", "none",
        "--signing-key", desk / "provider.pem", "--out", desk / "rows.csv")
    return desk


def keys_of(desk):
    return ledger.public_key(ledger.read_signing_key(desk / "provider.pem"))


def certificate_of(desk):
    return json.loads((desk / "c.json").read_text())


def test_a_revoked_user_is_named_as_revoked(desk):
    rows = (desk / "rows.csv").read_text().splitlines()
    assert rows[0].split(",")[:5] == ["file", "verdict", "user", "revoked", "others"]
    assert ["alice,20" in row for row in rows[1:]] == [True, True, False]
    named = [image["named"] for image in certificate_of(desk)["images"]]
    assert [[match["user"] for match in each] for each in named] == [["alice"], ["alice"], []]
    assert named[0][0]["revoked"].startswith("20")


def test_a_certificate_carries_the_soft_decision_that_its_verdict_is_made_by(desk):
    with Database(desk / "r") as base:
        alice, = base.select(["alice"]).bits.astype(int)
    for image in certificate_of(desk)["images"][:2]:
        logits, weights = np.asarray(image["logits"]), np.asarray(image["weights"])
        np.testing.assert_array_equal(weights, np.clip(np.rint(16 * logits / np.abs(logits).mean()), -63, 63))
        match, = image["named"]
        assert match["score"] == image["score"] == weights @ (2 * alice - 1)
        assert match["matches"] == np.count_nonzero((logits > 0) == alice)
        assert match["log10_p"] == image["log10_p"] < -20
    assert certificate_of(desk)["images"][0]["alignment"] == {"kind": "identity", "pose": None, "poses_tried": 1}


def test_everything_is_computed_again(desk, capsys):
    run("registry", "export", desk / "r", "--out", desk / "copy")
    capsys.readouterr()
    run("verify-certificate", desk / "c.json", desk / "found" / "a.png", desk / "found" / "noise.png", "--registry",
        desk / "copy", "--provider-key", keys_of(desk), "--certifier-key", keys_of(desk))
    out = capsys.readouterr().out
    assert "not checked" not in out and "DOES NOT HOLD" not in out
    assert out.count("the decoder reads the same") == 2 and out.count("the same verdict over all 302 users") == 3
    assert "revoke alice" in out and "bob" not in out


def test_without_image_and_registry_it_says_what_was_not_checked(desk, capsys):
    run("verify-certificate", desk / "c.json")
    assert capsys.readouterr().out.count("not checked: ") == 3


def test_it_holds_when_the_registry_has_grown(desk, tmp_path):
    shutil.copy(desk / "r", tmp_path / "r")
    with Database(tmp_path / "r") as base:
        base.issue(["later"])
    run("verify-certificate", desk / "c.json", "--registry", tmp_path / "r")


def change(document, path, value):
    *path, last = path
    for step in path:
        document = document[step]
    document[last] = document[last][value] if isinstance(value, slice) else value


CHANGES = {
    "user": (["images", 0, "named", 0, "user"], "bob"), "matches": (["images", 0, "named", 0, "matches"], 12),
    "nobody": (["images", 0, "named"], []), "best": (["images", 0, "matches"], 12),
    "score": (["images", 0, "named", 0, "score"], 100), "best score": (["images", 2, "score"], 100),
    "p": (["images", 0, "named", 0, "log10_p"], -30.0), "p of nobody": (["images", 2, "log10_p"], -3.0),
    "hash": (["images", 0, "sha256"], "00" * 32), "bits": (["images", 2, "fingerprint"], "00" * 16),
    "logit": (["images", 0, "logits", 5], 0.0), "logit of nobody": (["images", 2, "logits", 5], 0.0),
    "weight": (["images", 0, "weights", 5], 63), "rule": (["decision", "max_weight"], 127),
    "revoked": (["images", 0, "named", 0, "revoked"], None), "evenness": (["evenness_threshold"], 0.1),
    "time of revocation": (["images", 0, "named", 0, "revoked"], "2020-01-01T00:00:00Z"), "more": (["note"], "guilty"),
    "revocation left out": (["users", "alice"], slice(0, 1)),
    "rate": (["false_positive_rate"], 1e-60), "model": (["model", "hash"], "0" * 16),
    "noise": (["images", 2, "kind"], "fingerprinted, but nobody registered"),
    "entry": (["users", "alice", 0, "entry", "detail", "fingerprint"], "00" * 16), "size": (["registry", "size"], 7),
    "aligned": (["images", 0, "alignment"], {"kind": "flip"}), "damage": (["images", 0, "logits"], "many"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("signed_again", [False, True])
def test_every_change_is_noticed(desk, tmp_path, capsys, name, signed_again):
    document = certificate_of(desk)
    change(document, *CHANGES[name])
    if signed_again:  # by a forger, with a key of his own, who cannot sign the registry's head
        forger = ledger.create_signing_key(tmp_path / "forger.pem")
        document = ledger.signed({key: value for key, value in document.items() if key != "signature"}, forger)
    (tmp_path / "c.json").write_text(json.dumps(document))
    run("verify-certificate", tmp_path / "c.json", desk / "found" / "a.png", "--registry", desk / "r", code=1)
    out = capsys.readouterr().out
    assert "DOES NOT HOLD" in out and ("signature" in out) >= (not signed_again)


def signed_again(desk, path, document):
    """Writes a changed certificate, signed by the provider."""
    key = ledger.read_signing_key(desk / "provider.pem")
    path.write_text(json.dumps(ledger.signed({name: document[name] for name in document if name != "signature"}, key)))
    return path


@pytest.fixture(scope="module")
def moved(desk):
    """Flipped, turned, enlarged images of alice's, noise, and a certificate about them, by a model without aligner."""
    (desk / "moved").mkdir()
    with Database(desk / "r") as base:
        image, = load("robohash32").generate(base.select(["alice"]).fingerprint("alice"), [3])
    for name, spec in (("flip", "flip"), ("turn", "turn:1+scale:2"), ("plain", "png")):
        (desk / "moved" / f"{name}.png").write_bytes(encode_png(apply(spec, image[None], 0)[0]))
    shutil.copy(desk / "found" / "noise.png", desk / "moved")
    run("attribute", desk / "moved", "--model", "robohash32", "--registry", desk / "r", "--search", "fast",
        "--certificate", desk / "moved.json", "--signing-key", desk / "provider.pem")
    return desk


def test_a_certificate_says_where_the_search_found_the_picture_and_it_is_looked_for_again(moved, capsys):
    document = json.loads((moved / "moved.json").read_text())
    assert document["format"] == "fpgan certificate 2" and document["search"] == {"search": "fast", "aligner": None}
    images = {image["file"]: image for image in document["images"]}
    flipped, plain = images["flip.png"], images["plain.png"]
    assert [match["user"] for match in flipped["named"]] == [match["user"] for match in plain["named"]] == ["alice"]
    assert flipped["alignment"] == {"kind": "homography", "pose": [[-1, 0, 0], [0, 1, 0], [0, 0, 1]], "poses_tried": 8}
    assert plain["alignment"] == {"kind": "identity", "pose": None, "poses_tried": 8}
    run("verify-certificate", moved / "moved.json", *sorted((moved / "moved").iterdir()), "--model", "robohash32",
        "--registry", moved / "r", "--provider-key", keys_of(moved))
    out = capsys.readouterr().out
    assert "DOES NOT HOLD" not in out and out.count("the decoder reads the same") == 4
    assert "flip.png: the decoder reads the same" in out and "and undone: flipped" in out and "turned 90 degrees" in out


MOVED_CHANGES = {
    "search": (["search", "search"], "full"), "aligner": (["search", "aligner"], "00" * 8), "note": (["search", "note"], ""),
    "no search": (["search"], {"search": "none", "aligner": None}), "tried": (["images", 0, "alignment", "poses_tried"], 1),
    "place": (["images", 0, "alignment", "pose", 0, 2], 0.02), "turn": (["images", 0, "alignment", "pose", 0, 0], 1.0),
    "as it is": (["images", 0, "alignment"], {"kind": "identity", "pose": None, "poses_tried": 8}),
    "moved": (["images", 2, "alignment"], {"kind": "homography", "pose": np.diag([-1.0, 1, 1]).tolist(), "poses_tried": 8}),
    "no matrix": (["images", 0, "alignment", "pose", 1], [1.0]), "no pose": (["images", 0, "alignment", "pose"], None),
    "horizon": (["images", 0, "alignment", "pose", 2], [0.0, 0.0, 0.0]), "threshold": (["evenness_threshold"], 0.9),
}


@pytest.mark.parametrize("name", MOVED_CHANGES)
def test_another_search_or_place_does_not_hold(moved, tmp_path, capsys, name):
    document = json.loads((moved / "moved.json").read_text())
    assert [image["file"] for image in document["images"]][::2] == ["flip.png", "plain.png"]
    change(document, *MOVED_CHANGES[name])
    run("verify-certificate", signed_again(moved, tmp_path / "c.json", document), moved / "moved" / "flip.png",
        moved / "moved" / "plain.png", "--model", "robohash32", code=1)
    assert "DOES NOT HOLD" in capsys.readouterr().out


@pytest.mark.slow
def test_an_aligners_answer_is_certified_by_default_and_computed_again(desk, tmp_path, capsys):
    model, specs = load(), ("crop:0.9", "shift:3,-2", "flip+rotate:3", "crop_as_is:0.9")
    with Database(desk / "r") as base:
        images = model.generate(base.select(["bob"]).fingerprint("bob"), range(4))
    for i, spec in enumerate(specs):
        (tmp_path / f"{i}.png").write_bytes(encode_png(apply(spec, images[i:i + 1])[0]))
    files = sorted(tmp_path.glob("*.png"))
    run("attribute", *files, "--registry", desk / "r", "--certificate", tmp_path / "c.json",
        "--signing-key", desk / "provider.pem")
    document = json.loads((tmp_path / "c.json").read_text())
    assert document["search"] == {"search": "fast", "aligner": model.info["aligner"]["hash"]}
    moved = [image for image in document["images"] if image["alignment"]["kind"] == "homography"]
    assert len(moved) >= 3 and sum(match["user"] == "bob" for image in moved for match in image["named"]) >= 3
    capsys.readouterr()
    for file in files:  # one by one: in programs of another batch size
        run("verify-certificate", tmp_path / "c.json", file, "--registry", desk / "r")
    assert capsys.readouterr().out.count("and undone: ") == len(moved)
    run("verify-certificate", tmp_path / "c.json", *files, "--model", "robohash32", code=1)
    assert "this one is" in capsys.readouterr().out


def test_without_a_search_a_certificate_is_the_one_of_older_versions(desk):
    document = certificate_of(desk)
    assert document["format"] == "fpgan certificate 1" and "search" not in document
    assert document.keys() == {"format", "statement", "time", "versions", "model", "registry", "false_positive_rate",
                               "evenness_threshold", "decision", "users", "images", "public_key", "signature"}


def test_another_evenness_threshold_than_the_models_does_not_hold(desk, tmp_path, capsys):
    document = certificate_of(desk)
    document["images"] = document["images"][:1]  # of alice, whatever the threshold
    run("verify-certificate", signed_again(desk, tmp_path / "c.json", document), desk / "found" / "a.png")
    for threshold in (0.5, None):
        document["evenness_threshold"] = threshold
        run("verify-certificate", signed_again(desk, tmp_path / "c.json", document), desk / "found" / "a.png", code=1)
        assert f"the certificate's evenness threshold is {threshold}, that of this model 0." in capsys.readouterr().out


def test_a_revocation_that_is_kept_quiet_is_noticed_by_the_registry(desk, tmp_path, capsys):
    document = certificate_of(desk)
    del document["users"]["alice"][1], document["signature"]
    for image in document["images"]:
        for match in image["named"]:
            match["revoked"] = None
    key = ledger.read_signing_key(desk / "provider.pem")
    (tmp_path / "c.json").write_text(json.dumps(ledger.signed(document, key)))
    run("verify-certificate", tmp_path / "c.json")
    run("verify-certificate", tmp_path / "c.json", "--registry", desk / "r", code=1)
    assert "by the registry, 'alice' was revoked at 20" in capsys.readouterr().out


def test_other_files_keys_and_registries_do_not_pass(desk, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes((desk / "found" / "a.png").read_bytes() + b"\0")
    run("registry", "init", tmp_path / "other", "--signing-key", tmp_path / "other.pem")
    for arguments, message in (([tmp_path / "a.png"], "not about this file"),
                               (["--registry", tmp_path / "other"], "this one is"),
                               (["--provider-key", "00" * 32], "expected 0000"),
                               (["--certifier-key", "00" * 32], "expected 0000")):
        run("verify-certificate", desk / "c.json", *arguments, code=1)
        assert message in capsys.readouterr().out


def test_a_verifier_certifies_by_his_own_key_against_the_providers_head(desk, tmp_path, capsys):
    run("registry", "export", desk / "r", "--out", tmp_path / "copy")
    ledger.create_signing_key(tmp_path / "verifier.pem")
    run("attribute", desk / "found" / "a.png", "--registry", tmp_path / "copy", "--certificate", tmp_path / "v.json",
        "--signing-key", tmp_path / "verifier.pem")
    document = json.loads((tmp_path / "v.json").read_text())
    assert document["public_key"] != document["registry"]["public_key"] == keys_of(desk)
    run("verify-certificate", tmp_path / "v.json", desk / "found" / "a.png", "--registry", desk / "r")


def test_a_certificate_needs_a_whole_registry_and_a_key(desk, tmp_path, capsys):
    for arguments, message in (([], "is signed; give --signing-key"),
                               (["--user", "alice", "--signing-key", "k"], "all users"),
                               (["--pool", "all", "--signing-key", "k"], "leave out --pool"),
                               (["--out", tmp_path, "--signing-key", "k"], "no folder"),
                               (["--signing-key", tmp_path / "none"], "cannot be read")):
        run("attribute", desk / "found", "--registry", desk / "r", "--certificate", tmp_path / "c", *arguments, code=2)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_proofs_and_heads_through_the_command_line(desk, tmp_path, capsys):
    run("registry", "head", desk / "r", "--signing-key", desk / "provider.pem")
    (tmp_path / "old.json").write_text(capsys.readouterr().out)
    run("registry", "issue", desk / "r", "--user", "new", "--signing-key", desk / "provider.pem")
    run("registry", "prove", desk / "r", "--user", "new", "--out", tmp_path / "p.json")
    run("registry", "prove", desk / "r", "--since", tmp_path / "old.json", "--out", tmp_path / "s.json")
    for name in ("p", "s", "old"):
        run("registry", "check", tmp_path / f"{name}.json", "--public-key", keys_of(desk))
        run("registry", "check", tmp_path / f"{name}.json", "--public-key", "11" * 32, code=2)
    run("registry", "verify", desk / "r", "--head", tmp_path / "old.json")
    (tmp_path / "old.json").write_text((tmp_path / "old.json").read_text().replace('"root": "', '"root": "00'))
    run("registry", "verify", desk / "r", "--head", tmp_path / "old.json", code=1)


def test_nobody_is_issued_or_revoked_when_the_key_is_another(desk, tmp_path, capsys):
    ledger.create_signing_key(tmp_path / "other.pem")
    (tmp_path / "users.csv").write_text(f"user,fingerprint\neve,{'5a' * 16}\n")
    with Database(desk / "r") as base:
        size = base.size
        for command in (["issue", desk / "r", "--user", "eve"], ["revoke", desk / "r", "--user", "bob"],
                        ["import", desk / "r", "--csv", tmp_path / "users.csv"]):
            run("registry", *command, "--signing-key", tmp_path / "other.pem", code=2)
            assert "give the key that the registry was made with" in capsys.readouterr().err
        assert base.size == size


def test_sqlite_and_csv_registries_are_told_apart_by_their_first_bytes(desk, tmp_path, capsys):
    run("registry", "export", desk / "r", "--out", tmp_path / "users.csv")
    for registry in (tmp_path / "users.csv", desk / "r"):
        run("attribute", desk / "found" / "a.png", "--registry", registry, "--format", "jsonl")
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["user"] == "alice"
    run("registry", "init", tmp_path / "again")
    run("registry", "import", tmp_path / "again", "--csv", tmp_path / "users.csv")
    with Database(tmp_path / "again") as again, Database(desk / "r") as base:
        np.testing.assert_array_equal(again.registry().packed, base.registry().packed)
    for _ in range(2):  # issued once
        run("generate", "--registry", tmp_path / "again", "--user", "dora", "--issue", "--out", tmp_path / "s")
    capsys.readouterr()
    run("attribute", tmp_path / "s", "--registry", tmp_path / "again", "--format", "jsonl")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["user"] == "dora"
    run("registry", "init", tmp_path / "short", "--bits", "64")
    run("attribute", tmp_path / "s", "--registry", tmp_path / "short", code=2)
    assert "have 64 bits" in capsys.readouterr().err


def test_who_is_revoked_gets_no_images_unless_told_otherwise(desk, tmp_path, capsys):
    for users in (["--user", "alice"], ["--user", "bob", "--user", "alice"], []):
        run("generate", "--registry", desk / "r", *users, "--out", tmp_path / "s", code=2)
        error = capsys.readouterr().err
        assert "'alice' was revoked at 20" in error and "--allow-revoked" in error and error.count("\n") == 1
    assert not (tmp_path / "s").exists()
    run("generate", "--registry", desk / "r", "--user", "bob", "--out", tmp_path / "b")
    run("generate", "--registry", desk / "r", "--user", "alice", "--allow-revoked", "--out", tmp_path / "s")
    run("attribute", tmp_path / "s" / "alice", "--registry", desk / "r")
    assert "user alice (revoked 20" in capsys.readouterr().out


def test_an_image_is_hashed_as_it_was_decoded_wherever_it_lies(desk, tmp_path):
    import hashlib
    import zipfile

    with zipfile.ZipFile(tmp_path / "found.zip", "w") as archive:
        archive.write(desk / "found" / "a.png", "deep/a.png")
        archive.write(desk / "found" / "noise.png", "a.png")
    run("attribute", tmp_path / "found.zip", "--registry", desk / "r", "--certificate", tmp_path / "c.json",
        "--signing-key", desk / "provider.pem")
    noise, image = json.loads((tmp_path / "c.json").read_text())["images"]
    assert (noise["file"], image["file"]) == ("a.png", "deep/a.png")
    content = (desk / "found" / "a.png").read_bytes()
    assert image["sha256"] == hashlib.sha256(content).hexdigest() != noise["sha256"]
    assert image["pixels_sha256"] == certificate_of(desk)["images"][0]["pixels_sha256"]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="modes of POSIX")
def test_secrets_are_readable_by_their_owner_alone(desk, tmp_path):
    run("registry", "export", desk / "r", "--out", tmp_path / "copy")
    run("registry", "export", desk / "r", "--out", tmp_path / "users.csv")
    run("registry", "prove", desk / "r", "--user", "alice", "--out", tmp_path / "p.json")
    with Database(desk / "r"):
        files = [desk / "r", *desk.glob("r-*"), desk / "provider.pem", desk / "c.json", *tmp_path.iterdir()]
        assert len(files) >= 7
        assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {path.name: "0o600" for path in files}
