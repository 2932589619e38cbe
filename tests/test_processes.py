"""Training over two real processes: the same losses as one process with the same global batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

TINY = Path(tiny.__file__)
STEPS = 6


def start(workdir, **variables):
    """Starts `fpgan train` with the tiny config as a process with one device."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0", **variables,
                   "PYTHONPATH": os.pathsep.join([str(TINY.parents[1]), str(TINY.parent)])}
    code = "import sys, fpgan.cli; sys.exit(fpgan.cli.main())"
    command = [sys.executable, "-c", code, "train", "--config", str(TINY), "--workdir", str(workdir),
               f"total_images={32 * STEPS}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], name): value for line in lines for name, value in line.items() if name != "images_per_second"}


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pair = [start(tmp_path / "two", FPGAN_COORDINATOR=address, FPGAN_NUM_PROCESSES="2", FPGAN_PROCESS_ID=str(i))
            for i in range(2)]
    for process in [*pair, start(tmp_path / "one")]:
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys() and (STEPS, "discriminator") in one
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-3, atol=1e-5)
