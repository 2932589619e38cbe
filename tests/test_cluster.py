"""Which process of which job this is: flags, variables, and what schedulers leave in the environment."""

import functools

import pytest
from jax._src import clusters

from fpgan.distributed.environment import PATIENCE, Process, detect_process
from fpgan.errors import FpganError

SLURM = {"SLURM_JOB_ID": "4711", "SLURM_STEP_NODELIST": "node[07-09]", "SLURM_NTASKS": "3", "SLURM_PROCID": "2",
         "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "1(x3)"}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
       "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
MPI4 = MPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
GIVEN = {"FPGAN_COORDINATOR": "a:1", "FPGAN_NUM_PROCESSES": "3", "FPGAN_PROCESS_ID": "2"}
detect = functools.partial(detect_process, meeting=True)  # as training asks


@pytest.fixture
def environment(monkeypatch):
    """Replaces the whole environment."""
    def put(variables):
        monkeypatch.setattr("os.environ", dict(variables))
    put({})
    return put


def test_without_any_sign_there_is_one_process(environment):
    assert detect() == detect_process() == Process()


def test_flags_count_more_than_variables_and_both_more_than_a_scheduler(environment):
    environment(SLURM | GIVEN)
    assert detect() == Process(2, 3, "a:1") and detect_process() == Process(2, 3)
    assert detect(coordinator="b:2", process_id=0) == Process(0, 3, "b:2")
    assert detect(num_processes=1, process_id=0) == Process()
    environment({})
    assert detect(1, 2, "[::1]:9911") == Process(1, 2, "[::1]:9911")


@pytest.mark.parametrize("variables, flags, message", [
    ({}, ("a:1", None, None), r"--coordinator \(FPGAN_COORDINATOR\) given without --num-processes .* and --process-id "),
    ({}, (None, 2, 0), "without --coordinator"),
    ({"FPGAN_PROCESS_ID": "0"}, ("a:1", None, None), "without --num-processes"),
    (GIVEN | {"FPGAN_PROCESS_ID": "3"}, (None, None, None), "--process-id is 3 of 3 processes; expected 0 to 2"),
    (GIVEN | {"FPGAN_NUM_PROCESSES": "many"}, (None, None, None), "'many'.*whole numbers"),
    (GIVEN, ("nowhere", None, None), "'nowhere'; expected HOST:PORT"),
    ({"FPGAN_DISTRIBUTED": "maybe"}, (None, None, None), "'maybe'; expected auto or off"),
    ({"FPGAN_DISTRIBUTED": "auto"}, (None, None, None), "shows no job of several processes"),
])
def test_what_is_given_in_part_or_makes_no_sense_is_refused(environment, variables, flags, message):
    environment(variables)
    with pytest.raises(FpganError, match=message):
        detect(*reversed(flags))


@pytest.mark.parametrize("flags, variables, expected", [
    ((None, None), {}, Process(0, 1)),
    ((None, None), {"FPGAN_PROCESS_ID": "1", "FPGAN_NUM_PROCESSES": "3", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"},
     Process(1, 3)),
    ((None, None), {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, Process(1, 2)),
    ((None, None), {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Process(0, 1)),  # a batch script
    ((2, 3), {"FPGAN_PROCESS_ID": "1", "FPGAN_NUM_PROCESSES": "5"}, Process(2, 3)),
])
def test_flags_count_before_variables_and_ours_before_slurms(environment, flags, variables, expected):
    environment(variables)
    assert detect_process(*flags) == expected


@pytest.mark.parametrize("flags, variables", [
    ((1, None), {}), ((None, 2), {}), ((2, 2), {}), ((None, None), {"FPGAN_PROCESS_ID": "0"}),
    ((None, None), {"FPGAN_NUM_PROCESSES": "2"}), ((None, None), {"FPGAN_PROCESS_ID": "x", "FPGAN_NUM_PROCESSES": "2"}),
    ((None, None), {"FPGAN_PROCESS_ID": "-1", "FPGAN_NUM_PROCESSES": "2"})])
def test_half_or_senseless_numbers_are_refused(environment, flags, variables):
    environment(variables)
    with pytest.raises(FpganError):
        detect_process(*flags)


def test_slurm_steps_of_several_tasks_are_found(environment):
    port = 65535 - 4095 + 4711 % 4096
    environment(SLURM)
    assert detect() == Process(2, 3, f"node07:{port}")  # alone on its host: all its devices
    assert detect_process() == Process(2, 3)
    environment(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_LOCALID": "1"})
    assert detect().devices == (1,)
    environment(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "5"})
    assert detect().devices is None  # Slurm shows it only its own
    environment(SLURM | {"FPGAN_DISTRIBUTED": "off"})
    assert detect() == Process()


@pytest.mark.parametrize("changes", [
    {"SLURM_STEP_NUM_TASKS": "1"},  # a shell in an allocation of three tasks: salloc, or srun --pty
    {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"},
    {"SLURM_STEP_NUM_TASKS": None},  # the batch script itself
    {"SLURM_STEP_NODELIST": None, "SLURM_STEP_NUM_TASKS": None, "SLURM_PROCID": None, "SLURM_LOCALID": None},
])
def test_a_single_slurm_task_does_not_wait_for_others(environment, changes):
    environment({key: value for key, value in (SLURM | changes).items() if value is not None})
    assert detect() == Process()


def test_open_mpi_is_found_where_it_says_enough(environment):
    environment(MPI4)
    assert detect() == Process(1, 4, f"10.96.0.1:{65535 - 4095 + (1531576320 // 4096) % 4096}", (1,))
    assert detect_process() == Process(1, 4)
    environment(MPI4 | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"})
    assert detect() == Process()
    environment(MPI)
    with pytest.raises(FpganError, match="does not say where they can meet.*--coordinator"):
        detect()
    assert detect_process() == Process(1, 4)  # who does not meet needs no place for it
    environment(MPI | {"FPGAN_DISTRIBUTED": "off"})
    assert detect() == detect_process() == Process()


def test_tpu_pods_are_found_and_single_hosts_are_not(environment, monkeypatch):
    for module in ("cluster", "cloud_tpu_cluster"):
        monkeypatch.setattr(f"jax._src.clusters.{module}.running_in_cloud_tpu_vm", True)
    monkeypatch.setattr("socket.gethostbyname", lambda name: "10.0.0.1")
    monkeypatch.setattr(clusters.cloud_tpu_cluster, "get_metadata", lambda key: ("", 404))
    environment({"TPU_WORKER_HOSTNAMES": "w0,w1,w2,w3", "TPU_WORKER_ID": "3", "JAX_COORDINATOR_PORT": "99"})
    assert detect() == Process(3, 4, "w0:99") and detect_process() == Process(3, 4)
    environment({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"})
    assert detect() == Process()


def test_kubernetes_jobs_are_found_by_their_index(environment, monkeypatch):
    cloud = clusters.K8sCluster
    monkeypatch.setattr(cloud, "is_env_present", lambda: True)
    monkeypatch.setattr(cloud, "get_process_count", lambda: 2)
    monkeypatch.setattr(cloud, "get_coordinator_address", lambda **options: "train-0.train:55527")
    environment({})  # a notebook's pod
    assert detect() == Process()
    environment({"JOB_COMPLETION_INDEX": "1"})
    assert detect() == Process(1, 2, "train-0.train:55527") and detect_process() == Process(1, 2)
    environment({"JOB_COMPLETION_INDEX": "2"})
    with pytest.raises(FpganError, match="2 of 2 processes; expected 0 to 1"):
        detect_process()

    def denied():
        raise RuntimeError("Kubernetes API Error: 403 - Forbidden")
    monkeypatch.setattr(cloud, "get_process_count", denied)
    with pytest.raises(FpganError, match="K8sCluster: .*403 - Forbidden.*FPGAN_DISTRIBUTED=off"):
        detect()
    with pytest.raises(FpganError, match="403 - Forbidden.*--num-processes"):
        detect_process()


def test_the_search_needs_nothing_but_what_jax_has():
    assert {kind.__name__ for kind in clusters.ClusterEnv._cluster_types} >= {"SlurmCluster", "K8sCluster", "OmpiCluster"}
    assert PATIENCE >= 60
