"""Configs: every file in configs/ holds; overrides are typed; a misspelt key is named with its neighbour."""

from pathlib import Path

import pytest
import tiny

from fpgan.errors import FpganError
from fpgan.networks.config import NetworkConfig
from fpgan.training import config as configs
from fpgan.training.workdir import read_config

FILES = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_config_file_is_sound(path):
    config = configs.load(path)
    assert configs.architecture(config) == NetworkConfig(**config.network.to_dict()) and config.name == path.stem
    assert f"configs/{path.name}" in path.read_text().split('"""')[1]  # its docstring holds the command


def test_there_are_the_configs_that_readme_promises():
    names = {p.stem for p in FILES}
    assert names >= {"celeba128", "lsun_bedroom128", "lsun_cat256", "robohash64", "robohash32", "smoke", "folder"}


def test_the_default_is_the_papers_setting():
    config = configs.default()
    o = config.objective
    assert (o.adversarial, o.latent, o.fingerprint, o.consistency, o.path_length, o.r1_gamma) == (1, 1, 2, 2, 2, 100)
    assert (o.path_length_interval, o.r1_interval, config.optimizer.beta1, config.optimizer.beta2) == (4, 16, 0, 0.99)
    assert NetworkConfig(**config.network.to_dict()) == NetworkConfig()


@pytest.mark.parametrize("override, key, value", [
    ("batch_size=8", "batch_size", 8),
    ("total_images=1e6", "total_images", 1_000_000),
    ("optimizer.beta1=0", "optimizer.beta1", 0.0),
    ("objective.quantize=true", "objective.quantize", True),
    ("data.path=a=b", "data.path", "a=b"),
    ("network.bit_coding=plus_minus_one", "network.bit_coding", "plus_minus_one"),
])
def test_overrides_take_the_type_of_the_field(override, key, value):
    config = tiny.config()
    configs.apply_override(config, override)
    found = configs.flatten(config)[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("override, message", [
    ("optimiser.beta1=0.5", "unknown config key 'optimiser.beta1'; the nearest known one is 'optimizer.beta1'"),
    ("batchsize=8", "nearest known one is 'batch_size'"),
    ("batch_size=many", "expected a value of type int"),
    ("objective.quantize=1", "expected a value of type bool"),
    ("batch_size", "expected key=value"),
])
def test_wrong_overrides_are_named(override, message):
    with pytest.raises(FpganError, match=message):
        configs.apply_override(tiny.config(), override)


@pytest.mark.parametrize("text, message", [
    ("from fpgan.training.config import default\ndef get_config():\n  c = default(); c.network.resolution = 60; return c",
     "network.resolution is 60, expected a power of two"),
    ("import ml_collections\ndef get_config():\n  return ml_collections.ConfigDict({'sead': 1})",
     "nearest known one is 'seed'"),
    ("x = 1", "no function get_config"),
])
def test_wrong_files_are_named(tmp_path, text, message):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(FpganError, match=message):
        configs.load(tmp_path / "c.py")
    with pytest.raises(FpganError, match="no config file"):
        configs.load(tmp_path / "none.py")


def test_keys_of_older_versions_stay_readable(tmp_path):
    path = tmp_path / "old.py"
    path.write_text("from fpgan.training.config import default\n"
                    "def get_config():\n  c = default()\n  c.objective.discriminator_noise = 0.5\n"
                    "  c.export.fit_images = 2000\n  return c\n")
    config = configs.load(path)
    assert config.objective.instance_noise == 0.5 and config.export.readout_images == 2000
    assert configs.flatten(config).keys() == configs.flatten(configs.default()).keys()
    config = configs.load(path, ["objective.discriminator_noise=0.25"])
    assert config.objective.instance_noise == 0.25
    known = configs.flatten(configs.default())
    assert not configs.RENAMED.keys() & known.keys() and set(configs.RENAMED.values()) <= known.keys()
    assert configs.renamed({"export.fit_images": 5, "seed": 1}) == {"export.readout_images": 5, "seed": 1}


def test_a_resolution_of_the_data_is_that_of_the_network(tmp_path):
    config = tiny.config()
    configs.apply_override(config, "data.resolution=16")
    assert config.network.resolution == 16 and "resolution" not in config.data
    text = "def get_config():\n  c = default(); c.data.resolution = c.network.resolution = 64; return c"
    (tmp_path / "old.py").write_text(f"from fpgan.training.config import default\n{text}\n")
    config = configs.load(tmp_path / "old.py")
    assert config.network.resolution == 64 and "resolution" not in config.data
    (tmp_path / "config.json").write_text('{"data.resolution": 32, "network.resolution": 32, "name": "old"}')
    config = read_config(tmp_path)
    assert (config.name, config.network.resolution) == ("old", 32) and "resolution" not in config.data
