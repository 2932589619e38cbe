"""Which process of which job this is: by flags, by variables, or through the scheduler that started it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from fpgan.errors import FpganError

PATIENCE = 300  # seconds that a process waits for the others to start
_GIVEN = {"--coordinator": "FPGAN_COORDINATOR", "--num-processes": "FPGAN_NUM_PROCESSES", "--process-id": "FPGAN_PROCESS_ID"}
_COUNTED = {  # JAX's name of a scheduler whose variables are enough -> its own name, variables of number and count
    "OmpiCluster": ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "SlurmCluster": ("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
}


@dataclass(frozen=True)
class Process:
    """One process of a job.

    Attributes:
      index: number of this process, from 0.
      count: how many processes there are.
      coordinator: host:port at which process 0 waits for the others; None if that was not asked, or nobody else is there.
      devices: the numbers of this host's devices that are this process's; None: all that it sees.
    """

    index: int = 0
    count: int = 1
    coordinator: str | None = None
    devices: tuple[int, ...] | None = None

    def shards(self, total: int) -> range:
        """Returns the numbers of this process's shards, of `total` in all."""
        return range(self.index, total, self.count)

    def refuse_several(self, expected: str) -> None:
        """Raises FpganError unless this is the only process; says what several ones expect."""
        if self.count > 1:
            raise FpganError(f"this is {self}; several processes write into {expected}")

    def __str__(self) -> str:
        return f"process {self.index} of {self.count}"


def detect_process(process_id: int | None = None, num_processes: int | None = None, coordinator: str | None = None, *,
                   meeting: bool = False) -> Process:
    """Finds out which process of which job this is; the one answer for training, sets and reading.

    What is given counts most: these arguments, or for those that are None the variables FPGAN_PROCESS_ID,
    FPGAN_NUM_PROCESSES and FPGAN_COORDINATOR. Otherwise the environment is searched for a job of more than one process:
    Slurm, Open MPI, a TPU pod, an indexed Kubernetes Job. FPGAN_DISTRIBUTED=off leaves out this search; with
    FPGAN_DISTRIBUTED=auto it has to find a job.

    Args:
      process_id: this process's number, in [0, num_processes).
      num_processes: how many processes there are.
      coordinator: HOST:PORT of process 0.
      meeting: whether the processes will talk to each other, so that coordinator and devices have to be known; without it
        both stay None, and `coordinator` is not looked at.

    Returns:
      The process; Process(0, 1) in a job of one.

    Raises:
      FpganError: if what is given is incomplete or makes no sense, or the scheduler's job cannot be joined.
    """
    search = os.environ.get("FPGAN_DISTRIBUTED", "")
    if search not in ("", "auto", "off"):
        raise FpganError(f"FPGAN_DISTRIBUTED is {search!r}; expected auto or off")
    values = {flag: os.environ.get(name) or None if value is None else value
              for (flag, name), value in zip(_GIVEN.items(), (coordinator, num_processes, process_id), strict=True)}
    if not meeting:
        del values["--coordinator"]
    if any(value is not None for value in values.values()):
        return _given(values)
    process = Process() if search == "off" else _scheduled(meeting)
    if search == "auto" and process.count == 1:
        raise FpganError("FPGAN_DISTRIBUTED=auto, but the environment shows no job of several processes; expected Slurm, "
                         "Open MPI, a TPU pod or a Kubernetes Job with an index, or else " + ", ".join(values))
    return process


def _given(values: dict[str, int | str | None]) -> Process:
    """Checks what flags or variables say: flag -> value."""
    missing, present = ([f"{flag} ({_GIVEN[flag]})" for flag, value in values.items() if (value is None) == is_missing]
                        for is_missing in (True, False))
    if missing:
        raise FpganError(f"{' and '.join(present)} given without {' and '.join(missing)}; expected all of them or none")
    process = _numbered(values["--process-id"], values["--num-processes"], "--process-id", "--num-processes")
    address = values.get("--coordinator")
    if address is not None and not re.fullmatch(r"\S+:\d+", address):
        raise FpganError(f"--coordinator is {address!r}; expected HOST:PORT of process 0, such as node1:9911")
    return Process(process.index, process.count, address) if process.count > 1 else Process()


def _numbered(index, count, index_name: str, count_name: str) -> Process:
    """Checks a process number and a number of processes, which came by these names."""
    try:
        process = Process(int(index), int(count))
    except (TypeError, ValueError):
        raise FpganError(f"{index_name} is {index!r} and {count_name} {count!r}; expected whole numbers") from None
    if not 0 <= process.index < process.count:
        raise FpganError(f"{index_name} is {process.index} of {process.count} processes; expected 0 to {process.count - 1}")
    return process


def _scheduled(meeting: bool) -> Process:
    """Finds the process that a scheduler made this; Process() without one, or in a job of one process.

    Variables of Open MPI and Slurm say number and count in themselves; TPU pods, Kubernetes, and where process 0 waits are
    found by JAX's own detection. A Slurm step of one task (a shell in an allocation of many tasks would wait for tasks that
    nobody starts) and a Kubernetes pod without an index are no such job.

    Raises:
      FpganError: if there is a job of several processes, but not what it takes to be one of them.
    """
    for kind, (name, index, count) in _COUNTED.items():
        if os.environ.get(count, "1") != "1":
            process = _numbered(os.environ.get(index), os.environ[count], index, count)
            return _met(_cluster(kind), name, process) if meeting else process
    job = _cluster("GkeTpuCluster", "GceTpuCluster", *["K8sCluster"] * ("JOB_COMPLETION_INDEX" in os.environ))
    if job is None:
        return Process()
    with _telling(job.__name__):
        index, count = job.get_process_id(), job.get_process_count()
    if count == 1:
        return Process()
    process = _numbered(index, count, "the number of this process", "their count")
    return _met(job, job.__name__, process) if meeting else process


def _cluster(*names: str):
    """Finds the first of JAX's kinds of clusters with one of these names that this environment is; None without one."""
    from jax._src.clusters import ClusterEnv  # what jax.distributed goes through itself; it has no public name

    return next((kind for kind in ClusterEnv._cluster_types if kind.__name__ in names and kind.is_env_present()), None)


def _met(job, name: str, process: Process) -> Process:
    """Adds where the processes of a job meet, and which devices are this one's.

    A process alone on its host gets all of the host's devices, not only the first.
    """
    if job is None:
        raise FpganError(f"{name} started several processes, but does not say where they can meet"
                         f"{' (versions up to 4 do)' * (name == 'Open MPI')}; give --coordinator HOST:PORT --num-processes "
                         f"{process.count} --process-id {process.index} and so on, or set FPGAN_DISTRIBUTED=off for "
                         "separate runs")
    with _telling(name):
        address = job.get_coordinator_address(timeout_secs=PATIENCE,
                                              override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"))
        return Process(process.index, process.count, address, _own_devices(job.get_local_process_id()))


@contextlib.contextmanager
def _telling(name: str) -> Iterator[None]:
    """Turns what goes wrong with JAX's detection into a FpganError that says how to do without."""
    try:
        yield
    except (RuntimeError, LookupError, ValueError, OSError) as error:
        raise FpganError(f"{name}: the processes of this job cannot be found ({type(error).__name__}: {error}); "
                         f"name them with {', '.join(_GIVEN)}, or set FPGAN_DISTRIBUTED=off to run alone") from error


def _own_devices(local_process: int | None) -> tuple[int, ...] | None:
    """Returns one GPU for each of several processes of a host, unless the scheduler shows each process only its own."""
    tasks = re.sub(r"\(x\d+\)", "", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))  # such as 2(x3),1
    alone = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1" or set(tasks.split(",")) == {"1"}
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if local_process is None or alone or "JAX_LOCAL_DEVICE_IDS" in os.environ or (shown and "," not in shown):
        return None
    return (local_process,)
