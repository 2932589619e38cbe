"""How the processes of a job find each other: by flags, by variables, or through the scheduler that started them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fpgan.errors import FpganError

PATIENCE = 300  # seconds that a process waits for the others to start
_GIVEN = {"--coordinator": "FPGAN_COORDINATOR", "--num-processes": "FPGAN_NUM_PROCESSES", "--process-id": "FPGAN_PROCESS_ID"}
_NUMBERS = ("FPGAN_PROCESS_ID", "FPGAN_NUM_PROCESSES")
_SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")


@dataclasses.dataclass(frozen=True)
class Place:
    """A process's place in a job.

    Attributes:
      address: host:port at which process 0 waits for the others.
      count: how many processes the job has, at least 2.
      process: this one's number, in [0, count).
      devices: the numbers of this host's devices that are this process's; None: all that it sees.
    """

    address: str
    count: int
    process: int
    devices: tuple[int, ...] | None = None


def find_place(coordinator: str | None = None, num_processes: int | None = None,
               process_id: int | None = None) -> Place | None:
    """Says which process of which job this is.

    What is given counts most: these arguments, or for those that are None the variables FPGAN_COORDINATOR,
    FPGAN_NUM_PROCESSES and FPGAN_PROCESS_ID. Otherwise the environment is searched for a job of more than one process
    (see `scheduled`). FPGAN_DISTRIBUTED=off leaves out this search; with FPGAN_DISTRIBUTED=auto it has to find a job.

    Returns:
      The place; None in a job of one process.

    Raises:
      FpganError: if the three are given in part or make no sense, or the scheduler's job cannot be joined.
    """
    search = os.environ.get("FPGAN_DISTRIBUTED", "")
    if search not in ("", "auto", "off"):
        raise FpganError(f"FPGAN_DISTRIBUTED is {search!r}; expected auto or off")
    values = [os.environ.get(name) or None if value is None else value
              for name, value in zip(_GIVEN.values(), (coordinator, num_processes, process_id), strict=True)]
    if any(value is not None for value in values):
        return _given(*values)
    place = None if search == "off" else scheduled()
    if search == "auto" and place is None:
        raise FpganError("FPGAN_DISTRIBUTED=auto, but the environment shows no job of several processes; expected Slurm, "
                         "Open MPI, a TPU pod or a Kubernetes Job with an index, or else " + ", ".join(_GIVEN))
    return place


def _given(coordinator, num_processes, process_id) -> Place | None:
    """Checks what flags or variables say."""
    values = dict(zip(_GIVEN, (coordinator, num_processes, process_id), strict=True))
    missing, present = ([f"{flag} ({_GIVEN[flag]})" for flag, value in values.items() if (value is None) == is_missing]
                        for is_missing in (True, False))
    if missing:
        raise FpganError(f"{' and '.join(present)} given without {' and '.join(missing)}; expected all three or none")
    try:
        count, process = int(num_processes), int(process_id)
    except ValueError:
        raise FpganError(f"--num-processes is {num_processes!r} and --process-id {process_id!r}; "
                         "expected whole numbers") from None
    if not 0 <= process < count:
        raise FpganError(f"--process-id is {process} of {count} processes; expected 0 to {count - 1}")
    if not re.fullmatch(r"\S+:\d+", coordinator):
        raise FpganError(f"--coordinator is {coordinator!r}; expected HOST:PORT of process 0, such as node1:9911")
    return Place(coordinator, count, process) if count > 1 else None


def scheduled() -> Place | None:
    """The place that a scheduler gave to this process; None without one, or in a job of one process.

    JAX's own detection finds Open MPI, Slurm, TPU pods and Kubernetes. Two things are left out of it: a Slurm step of one
    task (a shell in an allocation of many tasks would wait for tasks that nobody starts), and a Kubernetes pod without an
    index. A process alone on its host gets all of the host's devices, not only the first.

    Raises:
      FpganError: if there is a job of several processes, but not where its process 0 waits.
    """
    from jax._src.clusters import ClusterEnv  # what jax.distributed goes through itself; it has no public name

    job = next((kind for kind in ClusterEnv._cluster_types
                if not kind.opt_in_only_method and _possible(kind.__name__) and kind.is_env_present()), None)
    if job is None:
        if int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
            raise FpganError("Open MPI started several processes, but does not say where they can meet (versions up to 4 "
                             "do); give --coordinator HOST:PORT --num-processes $OMPI_COMM_WORLD_SIZE --process-id "
                             "$OMPI_COMM_WORLD_RANK, or set FPGAN_DISTRIBUTED=off for separate runs")
        return None
    try:
        count = job.get_process_count()
        if count == 1:
            return None
        port = os.environ.get("JAX_COORDINATOR_PORT")
        address = job.get_coordinator_address(timeout_secs=PATIENCE, override_coordinator_port=port)
        return Place(address, count, job.get_process_id(), _own_devices(job.get_local_process_id()))
    except (RuntimeError, LookupError, ValueError, OSError) as error:
        raise FpganError(f"{job.__name__}: the processes of this job cannot be found ({type(error).__name__}: {error}); "
                         f"name them with {', '.join(_GIVEN)}, or set FPGAN_DISTRIBUTED=off to run alone") from error


def _possible(kind: str) -> bool:
    """Whether the environment is that of one process among several, as far as JAX's own test does not look."""
    if kind == "SlurmCluster":
        return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    if kind == "K8sCluster":
        return "JOB_COMPLETION_INDEX" in os.environ
    return True


def _own_devices(local_process: int | None) -> tuple[int, ...] | None:
    """One GPU for each of several processes of a host, unless the scheduler shows each process only its own."""
    tasks = re.sub(r"\(x\d+\)", "", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))  # such as 2(x3),1
    alone = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1" or set(tasks.split(",")) == {"1"}
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if local_process is None or alone or "JAX_LOCAL_DEVICE_IDS" in os.environ or (shown and "," not in shown):
        return None
    return (local_process,)


@dataclass(frozen=True)
class Share:
    """One process's part of the shards.

    Attributes:
      index: number of this process, from 0.
      count: how many processes there are.
    """

    index: int = 0
    count: int = 1

    def shards(self, total: int) -> range:
        """The numbers of this process's shards, of `total` in all."""
        return range(self.index, total, self.count)

    def refuse_several(self, expected: str) -> None:
        """Raises FpganError unless this is the only process; says what several ones expect."""
        if self.count > 1:
            raise FpganError(f"this is {self}; several processes write into {expected}")

    def __str__(self) -> str:
        return f"process {self.index} of {self.count}"


def process_share(index: int | None = None, count: int | None = None, environment: Mapping[str, str] = os.environ) -> Share:
    """Finds out which process this is.

    Args:
      index: given by the user, together with `count`; else FPGAN_PROCESS_ID and FPGAN_NUM_PROCESSES count, else what
        Slurm tells the tasks that srun starts (SLURM_PROCID and SLURM_STEP_NUM_TASKS; a batch script has a SLURM_PROCID,
        too, but is one process, however many it asked for), else this process is the only one.
      count: how many processes there are.
      environment: the variables.

    Raises:
      FpganError: only one of the two is known, or they are no process number below a number of processes.
    """
    if index is not None or count is not None:
        return _checked(index, count, "--process-id and --num-processes")
    if any(environment.get(name) for name in _NUMBERS):
        return _checked(*(environment.get(name) for name in _NUMBERS), " and ".join(_NUMBERS))
    if environment.get(_SLURM[1]):
        return _checked(*(environment.get(name) for name in _SLURM), " and ".join(_SLURM))
    return Share()


def cpu_count() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked(index, count, told: str) -> Share:
    try:
        share = Share(int(index), int(count))
    except (TypeError, ValueError):
        raise FpganError(f"{told} are {index!r} and {count!r}; expected two whole numbers") from None
    if not 0 <= share.index < share.count:
        raise FpganError(f"{told} are {index} and {count}; expected a process number from 0 to the number of processes - 1")
    return share
