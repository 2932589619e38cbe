"""The paper's configs run: data sets under TFDS's names, the pipeline, and steps of training, with made-up images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK
from stand_ins import write

from fpgan.cli import main
from fpgan.data.pipeline import stream
from fpgan.data.sources import open_source
from fpgan.training.config import load

CONFIGS = {"celeba128": "celeb_a", "lsun_bedroom128": "lsun/bedroom", "lsun_cat256": "lsun/cat"}
ROOT = Path(__file__).parents[1]
# A twentieth of the paper's channels, and no more: sizes of images, terms, intervals and data are the paper's.
SMALL = ["network.channel_base=256", "network.channel_max=16", "network.latent_size=16", "network.style_size=16",
         "network.mapping_layers=2", "network.decoder_features=32", "batch_size=8", "every.log=1", "every.checkpoint=1",
         "total_images=16"]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_set_of_that_name_is_found_and_its_images_arrive(name, tmp_path, capsys):
    folder = write(CONFIGS[name], tmp_path, 6)
    assert folder.is_relative_to(tmp_path / CONFIGS[name])
    config = load(ROOT / "configs" / f"{name}.py", [f"data.data_dir={tmp_path}", "data.take=6"])
    source, side = open_source(config.data, config.network.resolution), config.network.resolution
    images = source.load_all()
    assert images.shape == (6, side, side, 3) and images.dtype == np.uint8 and images.std() > 20
    assert len(np.unique(images.reshape(6, -1), axis=0)) == 6
    batches = stream(source, 4, config.seed, 0)
    seen = np.concatenate([next(batches) for _ in range(3)])  # two rounds through the set
    assert {x.tobytes() for x in seen} == {x.tobytes() for x in images}
    if config.data.resident:
        assert main(["data", "--config", str(ROOT / "configs" / f"{name}.py"), f"data.data_dir={tmp_path}"]) == 0
        assert "6" in capsys.readouterr().out


def fpgan(*arguments):
    """Runs a command in a process of its own, which has one device, and returns what it prints."""
    environment = os.environ | {"XLA_FLAGS": QUICK}
    done = subprocess.run([sys.executable, "-c", "import sys; from fpgan.cli import main; sys.exit(main())", *arguments],
                          env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_two_steps_then_a_model_that_generates_and_decodes(name, tmp_path):
    write(CONFIGS[name], tmp_path / "data", 10)
    workdir, model, images = str(tmp_path / "run"), str(tmp_path / "model"), str(tmp_path / "set")
    train = ["train", "--config", str(ROOT / "configs" / f"{name}.py"), "--workdir", workdir, *SMALL,
             f"data.data_dir={tmp_path / 'data'}", "data.take=10"]
    assert "finished at step 2 of 2" in fpgan(*train)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"adversarial", "consistency", "path_length", "discriminator", "r1"} <= set().union(*logged)  # every phase ran
    assert "continuing at step 2" in fpgan(*train)  # its checkpoint is read
    fpgan("export", "--workdir", workdir, "--out", model)
    fpgan("generate", "--model", model, "--fingerprint", "0" * 31 + "1", "--per-user", "2", "--out", images)
    assert len(fpgan("decode", "--model", model, images).splitlines()) >= 2
