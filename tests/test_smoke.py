"""The smoke config, as a user runs it: train, export, evaluate. Minutes long, so marked slow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def fpgan_command(*words):
    """Runs the command line on one device; returns what it printed."""
    environment = {**os.environ, "XLA_FLAGS": ""}
    code = "import sys, fpgan.cli; sys.exit(fpgan.cli.main())"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, cwd=ROOT,
                          env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_smoke_config_ends_with_bits_that_can_be_read_from_8_bit_images(tmp_path):
    fpgan_command("train", "--config", "configs/smoke.py", "--workdir", tmp_path / "run")
    fpgan_command("export", "--workdir", tmp_path / "run", "--out", tmp_path / "model")
    fpgan_command("evaluate", "--model", tmp_path / "model", "--images", 500, "--out", tmp_path / "metrics.json")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["bit_accuracy"]["png"]["value"] >= 0.8
