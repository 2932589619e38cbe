"""What a user gets: it runs without fpgan, its images are the user's, and nothing of the provider is in it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from fpgan.attribution.database import Database
from fpgan.cli.app import main
from fpgan.fingerprint import Fingerprint
from fpgan.model import DEFAULT_MODEL, load
from fpgan.model.instance import load_instance
from fpgan.networks.generator import Generator

KEY = bytes(range(7, 39))
SEEDS = range(40, 52)
# In a process of its own, without fpgan, and without what is around the tests.
ALONE = ("import sys, runpy; sys.modules['fpgan'] = None; sys.argv = sys.argv[1:]; "
         "runpy.run_path('generate.py', run_name='__main__')")


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    """A provider's desk: a registry with alice, whose fingerprint is derived from a key, and others."""
    for package in ("cryptography", "jax2onnx", "onnxruntime", "flatbuffers"):
        pytest.importorskip(package, reason="pip install 'fpgan[provider,release]'")
    desk = tmp_path_factory.mktemp("provider-desk")
    (desk / "secret.key").write_text(KEY.hex())
    run("registry", "init", desk / "registry.sqlite", "--signing-key", desk / "signing.pem")
    run("registry", "issue", desk / "registry.sqlite", "--user", "alice", "--key-file", desk / "secret.key")
    run("registry", "issue", desk / "registry.sqlite", "--user", "bobby-tables", "--user", "Zoë Quux")
    run("release", "--user", "alice", "--registry", desk / "registry.sqlite", "--out", desk / "for-alice")
    return desk


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def make_images(folder, out, runtime):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run([sys.executable, "-c", ALONE, "generate.py", "--seeds", f"{SEEDS[0]}-{SEEDS[-1]}", "--out", out,
                           "--runtime", runtime, "--batch-size", "5"], cwd=folder, env=environment, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    return np.stack([np.asarray(Image.open(path)) for path in sorted(Path(out).iterdir())])


@pytest.mark.parametrize("runtime", ["onnx", "stablehlo"])
def test_an_instance_runs_without_fpgan_and_its_images_are_alices(provider, tmp_path, capsys, runtime):
    images = make_images(provider / "for-alice", tmp_path / "images", runtime)
    expected = load().generate(Fingerprint.derive(KEY, "alice", 128), SEEDS, batch_size=4)
    assert images.shape == expected.shape
    assert np.abs(images.astype(int) - expected).max() <= 1
    capsys.readouterr()
    run("attribute", tmp_path / "images", "--registry", provider / "registry.sqlite", "--format", "jsonl")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["user"] for row in rows] == ["alice"] * len(SEEDS)
    assert all(row["log10_p"] < -20 for row in rows)


def test_the_exports_take_any_batch_and_agree(provider):
    import onnxruntime
    from jax import export

    folder = provider / "for-alice"
    session = onnxruntime.InferenceSession(folder / "generator.onnx")
    side, latent_size = load().resolution, load().config.latent_size
    assert session.get_inputs()[0].shape == ["B", latent_size]
    assert session.get_outputs()[0].shape == ["B", side, side, 3]
    program = export.deserialize(bytearray((folder / "generator.stablehlo").read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    weights = load_file(folder / "generator.safetensors")
    for count in (1, 2, 7):
        latents = np.random.default_rng(count).standard_normal((count, latent_size)).astype(np.float32)
        images, = session.run(None, {"latents": latents})
        np.testing.assert_allclose(images, program.call(weights, latents), atol=1e-4)


def test_an_instance_can_be_loaded_again(provider):
    instance = load_instance(provider / "for-alice")
    expected = load().generate(Fingerprint.derive(KEY, "alice", 128), SEEDS)
    assert np.abs(instance.generate(SEEDS).astype(int) - expected).max() <= 1
    assert instance.info["issued_to"] == "alice" and "David Revoy" in instance.info["training"]["licence"]


def test_the_numbers_of_the_script_are_those_of_jax(provider):
    import importlib.util

    from fpgan.model.instance import _noise
    from fpgan.model.programs import draw_latent
    from fpgan.networks.config import NetworkConfig
    from fpgan.networks.folding import FoldedConfig

    spec = importlib.util.spec_from_file_location("script", provider / "for-alice" / "generate.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    config = FoldedConfig.of(NetworkConfig(resolution=16, channel_base=32, channel_max=8, latent_size=33, noise="random"))
    seeds = [0, 1, 77, 2**31, 2**32 - 1]
    latents, noise = script.inputs(seeds, {"latent_size": 33, "noise": "random", "resolution": 16})
    drawn, keys = jax.vmap(lambda seed: draw_latent(33, seed))(np.asarray(seeds, np.uint32))
    np.testing.assert_allclose(latents, drawn, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(noise, _noise(config, keys), rtol=2e-5, atol=2e-6)
    assert noise.shape == (5, config.noise_size) and abs(noise.std() - 1) < 0.05


def secrets_of(desk):
    """What must not be in a release: {name: bytes}."""
    mine, model = Fingerprint.derive(KEY, "alice", 128), load()
    with Database(desk / "registry.sqlite") as base:
        others = {row["user"]: row["fingerprint"] for row in base.rows() if row["user"] != "alice"}
        found = {"registry id": base.id.encode(), "registry secret": base._facts["secret"],
                 "public key": base.public_key.encode()}
    bits = mine.bits
    signs = 2.0 * bits - 1
    found |= {"hex": mine.hex.encode(), "HEX": mine.hex.upper().encode(), "packed": mine.packed,
              "reversed": mine.packed[::-1], "little": np.packbits(bits, bitorder="little").tobytes(),
              "text": "".join(map(str, bits)).encode(),
              "list": ", ".join(map(str, bits[:16])).encode(), "bytes": bits.tobytes(), "key": KEY,
              "key hex": KEY.hex().encode(), "hash": model.hash.encode(), "desk": str(desk).encode(),
              "home": os.path.expanduser("~/").encode(), "source": str(Path(__file__).parents[1]).encode(),
              "signing key": (desk / "signing.pem").read_bytes()[28:60],
              **{f"{kind}": np.asarray(values, kind).tobytes()[:64] for kind in ("<f4", "<f8", "<i4", "<i8", "<f2")
                 for values in (bits, signs)},
              **{f"signs {kind}": np.asarray(signs, kind).tobytes()[:64] for kind in ("i1", "<f4", "<f8")}}
    for user, fingerprint in others.items():
        found |= {f"user {user}": user.encode(), f"hex of {user}": fingerprint.encode(),
                  f"bits of {user}": bytes.fromhex(fingerprint)}
    variables = {"params": model.params["generator"]}
    style = Generator(model.config).apply(variables, bits[None].astype(np.float32), method="styles")
    found["style"] = np.asarray(style)[0, 0, :4].tobytes()
    for network, tree in (("mapping", model.params["generator"]["mapping"]), ("decoder", model.params["decoder"])):
        for path, array in jax.tree_util.tree_leaves_with_path(tree):
            if np.ptp(array) > 0:
                found[f"{network}{jax.tree_util.keystr(path)}"] = np.asarray(array).ravel()[:8].tobytes()
    for name, layer in model.params["generator"]["synthesis"]["b8"].items():
        for part in ("weight", "mod_weight", "mod_bias"):
            found[f"{name}/{part}"] = np.asarray(layer[part]).ravel()[:8].tobytes()
    return found


def test_nothing_of_the_provider_is_in_a_release(provider):
    files = {path.name: path.read_bytes() for path in (provider / "for-alice").iterdir()}
    assert set(files) == {"generator.safetensors", "generator.stablehlo", "generator.onnx", "config.json", "generate.py",
                          "README.md", "LICENSE"}
    secrets = secrets_of(provider)
    assert len(secrets) > 40
    planted = b"".join(b"..." + secret for secret in secrets.values())
    assert all(secret in planted for secret in secrets.values())
    leaks = [(file, name) for file, content in files.items() for name, secret in secrets.items() if secret in content]
    assert leaks == []
    arrays = load_file(provider / "for-alice" / "generator.safetensors")
    assert set(arrays) == set(load_instance(provider / "for-alice").config.shapes)
    words = re.compile(rb"mapping|decoder/|mod_weight|fingerprint_bits|site-packages|\.py\b", re.IGNORECASE)
    for name in ("generator.stablehlo", "generator.onnx", "generator.safetensors", "config.json"):
        assert words.search(files[name]) is None, (name, words.search(files[name]))


def test_the_release_is_in_the_inventory_and_in_the_log(provider, capsys):
    import hashlib

    capsys.readouterr()
    run("registry", "list", provider / "registry.sqlite", "--releases")
    release, = map(json.loads, capsys.readouterr().out.splitlines())
    assert (release["user"], release["model"], release["name"]) == ("alice", load().hash, DEFAULT_MODEL)
    assert release["sha256"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                                 for path in (provider / "for-alice").iterdir()}
    run("registry", "verify", provider / "registry.sqlite")


def test_a_card_and_terms_name_user_data_and_licence(provider, tmp_path):
    card, terms = ((provider / "for-alice" / name).read_text() for name in ("README.md", "LICENSE"))
    for text in (card, terms):
        assert "alice" in text and "CC-BY-4.0" in text and not re.search(r"\{[A-Z]+\}", text)
    (tmp_path / "terms.txt").write_text("My own terms.\n")
    run("release", "--user", "bobby-tables", "--registry", provider / "registry.sqlite", "--out", tmp_path / "b",
        "--formats", "none", "--licence", tmp_path / "terms.txt")
    assert (tmp_path / "b" / "LICENSE").read_text() == "My own terms.\n"
    files = {path.name for path in (tmp_path / "b").iterdir()}
    assert files == {"LICENSE", "README.md", "config.json", "generator.safetensors"}
    other = (tmp_path / "b" / "README.md").read_text()
    assert "load_instance" in other and "onnx" not in other
    assert "load_instance" not in card and "generator.onnx" in card and "<!--" not in card


def test_who_is_revoked_or_unknown_gets_nothing(provider, tmp_path, capsys):
    run("registry", "issue", provider / "registry.sqlite", "--user", "mallory")
    run("registry", "revoke", provider / "registry.sqlite", "--user", "mallory")
    for arguments, message in ((["--user", "mallory"], "was revoked"), (["--user", "nobody"], "not in the registry"),
                               (["--user", "alice", "--formats", "tflite"], "expected stablehlo, onnx"),
                               (["--user", "alice", "--label", "3", "--formats", "none"], "for none")):
        command = ["release", "--registry", str(provider / "registry.sqlite"), "--out"]
        assert main([*command, str(tmp_path / "x"), *arguments]) == 2
        assert message in capsys.readouterr().err
    run(*command, tmp_path / "anyway", "--user", "mallory", "--allow-revoked", "--formats", "none")
    assert f"instance of {DEFAULT_MODEL} for mallory" in capsys.readouterr().out
    assert main([*command, str(tmp_path), "--user", "alice"]) == 2
    assert "exists" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_a_csv_registry_keeps_its_inventory_beside_it(provider, tmp_path):
    run("registry", "export", provider / "registry.sqlite", "--out", tmp_path / "r.csv")
    run("release", "--user", "alice", "--registry", tmp_path / "r.csv", "--out", tmp_path / "a", "--formats", "none")
    release, = map(json.loads, (tmp_path / "r.csv.releases.jsonl").read_text().splitlines())
    assert release["user"] == "alice" and "generator.safetensors" in release["sha256"]
    first, second = (load_file(folder / "generator.safetensors") for folder in (tmp_path / "a", provider / "for-alice"))
    assert all((first[name] == second[name]).all() for name in second)


def test_nothing_is_handed_out_that_is_not_in_the_log(provider, tmp_path, capsys):
    run("registry", "export", provider / "registry.sqlite", "--out", tmp_path / "copy")
    arguments = ["release", "--user", "alice", "--registry", tmp_path / "copy", "--out", tmp_path / "a", "--formats", "none"]
    assert main(list(map(str, arguments))) == 2
    assert "read only" in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize("change", [{"widths": []}, {"widths": "many"}, {"resolution": 128}, {"noise": "much"},
                                    {"extra": 1}])
def test_an_instance_whose_config_says_something_else_is_refused(tmp_path, change):
    from fpgan.errors import FpganError
    from fpgan.model.instance import make_instance, write_instance

    write_instance(make_instance(load(), Fingerprint.random()), tmp_path / "i", "alice", formats=())
    assert (tmp_path / "i").stat().st_mode & 0o777 == 0o700
    config = json.loads((tmp_path / "i" / "config.json").read_text())
    config["generator"] |= change
    (tmp_path / "i" / "config.json").write_text(json.dumps(config))
    with pytest.raises(FpganError, match="damaged|does not fit"):
        load_instance(tmp_path / "i")


@pytest.mark.parametrize("damage", ["config.json", "generator.safetensors"])
def test_a_damaged_instance_is_refused(tmp_path, damage):
    from fpgan.errors import FpganError
    from fpgan.model.instance import make_instance, write_instance

    write_instance(make_instance(load(), Fingerprint.random()), tmp_path / "i", "alice", formats=())
    content = (tmp_path / "i" / damage).read_bytes()
    (tmp_path / "i" / damage).write_bytes(content[:len(content) // 2])
    with pytest.raises(FpganError, match="cannot be read|damaged"):
        load_instance(tmp_path / "i")
