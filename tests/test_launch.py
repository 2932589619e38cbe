"""The start scripts: what they would run, and what they refuse."""

import shlex
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "launch"
CASES = [("gpu_host.sh", [], "fpgan train"), ("slurm.sh", [], "srun --kill-on-bad-exit=1 fpgan train"),
         ("tpu_pod.sh", ["my-tpu", "us-east5-a"], "gcloud compute tpus tpu-vm ssh my-tpu --zone us-east5-a --worker=all")]


@pytest.mark.parametrize("script, first, begins", CASES)
def test_dry_run_prints_the_command_with_every_word_intact(script, first, begins):
    words = ["configs/x.py", "runs/with space", "data.path=a b", "batch_size=8"]
    done = subprocess.run([LAUNCH / script, "--dry-run", *first, *words], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(begins)
    printed = shlex.split(done.stdout)
    printed = shlex.split(printed[-1]) if script == "tpu_pod.sh" else printed
    assert printed[-6:] == ["--config", "configs/x.py", "--workdir", "runs/with space", "data.path=a b", "batch_size=8"]


@pytest.mark.parametrize("script, first, begins", CASES)
def test_missing_arguments_give_the_usage_and_code_2(script, first, begins):
    done = subprocess.run([LAUNCH / script, *first, "configs/x.py"], capture_output=True, text=True)
    assert done.returncode == 2 and "CONFIG WORKDIR" in done.stderr


def test_the_host_script_runs_what_it_prints(tmp_path):
    fake = tmp_path / "fpgan"
    fake.write_text('#!/usr/bin/env bash\necho "$@" > ' + shlex.quote(str(tmp_path / "called")))
    fake.chmod(0o755)
    subprocess.run([LAUNCH / "gpu_host.sh", "c.py", "w", "a=b"], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert (tmp_path / "called").read_text() == "train --config c.py --workdir w a=b\n"
