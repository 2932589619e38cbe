"""The Slurm script for real: two nodes on this machine; stop, requeue, kill, resubmit, and the same result."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "tests" / "slurm_cluster.sh"
STEPS = 200
OVERRIDES = [f"total_images={32 * STEPS}", "every.checkpoint=20"]
MISSING = [name for name in ("slurmctld", "slurmd", "munged", "sbatch")
           if not shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.getuid() != 0, reason="only root can start a Slurm cluster")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment in which Slurm's commands find the cluster, and `fpgan` is this one."""
    folder = Path(tempfile.mkdtemp(prefix="fpgan-slurm-")) / "cluster"
    folder.parent.chmod(0o755)  # munge's socket has to be within everybody's reach
    programs = tmp_path_factory.mktemp("bin")
    fpgan = programs / "fpgan"
    fpgan.write_text(f"#!{sys.executable}\nimport sys\nfrom fpgan.cli import main\nsys.exit(main())\n")
    fpgan.chmod(0o755)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{programs}:{os.environ['PATH']}",
                   "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    try:
        subprocess.run([CLUSTER, "start", folder], check=True, timeout=120)
        yield environment
    finally:
        subprocess.run([CLUSTER, "stop", folder], check=True, timeout=120)
        shutil.rmtree(folder.parent)


class Job:
    """A run that was submitted."""

    def __init__(self, cluster, workdir):
        workdir.mkdir(exist_ok=True)
        self.cluster, self.workdir, self.output = cluster, workdir, workdir / "slurm.out"
        self.id = self.slurm("sbatch", "--parsable", "--nodes=2", f"--output={self.output}", ROOT / "launch" / "slurm.sh",
                             tiny.__file__, workdir, *OVERRIDES)

    def slurm(self, *command):
        done = subprocess.run(list(map(str, command)), env=self.cluster, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait(self, reached, seconds=900):
        """Until `reached()` is true; fails with the job's output when that takes too long."""
        until = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < until, f"{self.state} after {seconds} s\n{self.output.read_text()[-2000:]}"
            time.sleep(0.2)

    @property
    def state(self):
        fields = self.slurm("scontrol", "--oneliner", "show", "job", self.id).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)["JobState"]

    @property
    def step(self):
        """The last step in the log that is written in full."""
        log = self.workdir / "metrics.jsonl"
        lines = log.read_text().split("\n")[:-1] if log.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    def processes(self):
        """The ids of the two that train."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:  # it has ended meanwhile
                continue
            if str(self.workdir).encode() in words and words[1].endswith(b"/fpgan"):
                found.append(int(path.parent.name))
        return found


def result(workdir):
    """Every logged value of a run, and the numbers in its last checkpoint."""
    import jax

    from fpgan.training.checkpoint import Checkpoints
    from fpgan.training.state import init_state

    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = {(line["step"], name): value for line in lines for name, value in line.items() if name != "images_per_second"}
    state = Checkpoints(workdir, read_only=True).restore(init_state(tiny.config()))
    return logged, {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def test_requeued_killed_and_resubmitted_a_run_ends_like_one_that_was_left_alone(cluster, tmp_path):
    whole = Job(cluster, tmp_path / "whole")
    whole.wait(lambda: whole.state in ("COMPLETED", "FAILED"))
    assert whole.state == "COMPLETED", whole.output.read_text()[-2000:]

    job = Job(cluster, tmp_path / "disturbed")
    job.wait(lambda: job.step >= 5)
    job.slurm("scancel", "--batch", "--signal=USR1", job.id)  # as Slurm does before the time limit
    job.wait(lambda: "stopped at step" in job.output.read_text() and job.state == "PENDING")
    stopped = job.step
    assert 5 <= stopped < STEPS
    job.wait(lambda: f"continuing at step {stopped}" in job.output.read_text() and job.step > stopped)

    os.kill(job.processes()[-1], signal.SIGKILL)
    job.wait(lambda: job.state == "FAILED")
    assert job.step < STEPS and not job.processes()

    again = Job(cluster, tmp_path / "disturbed")
    again.wait(lambda: again.state in ("COMPLETED", "FAILED"))
    assert again.state == "COMPLETED" and f"finished at step {STEPS}" in again.output.read_text()[-2000:]
    logged, numbers = result(again.workdir)
    expected_logged, expected = result(whole.workdir)
    assert logged == expected_logged and logged[(STEPS, "images")] == STEPS * 32
    for name in expected:
        np.testing.assert_array_equal(numbers[name], expected[name], err_msg=name)
    assert expected[".step"] == STEPS


def test_a_cancelled_job_saves_and_does_not_come_back(cluster, tmp_path):
    job = Job(cluster, tmp_path / "run")
    job.wait(lambda: job.step >= 5 and len(job.processes()) == 2)
    job.slurm("scancel", job.id)
    job.wait(lambda: job.state == "CANCELLED" and not job.processes())
    assert f"stopped at step {job.step:,} of {STEPS}; saved" in job.output.read_text()
    assert (job.workdir / "checkpoints" / str(job.step)).is_dir()
    time.sleep(3)
    assert job.state == "CANCELLED"
