#!/usr/bin/env bash
#SBATCH --job-name=fpgan
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
# First version, not run on a cluster here. One task per node, all GPUs of a node in one process. Slurm sends SIGTERM to this
# script two minutes before the time limit; it is passed on, fpgan saves, and the job is queued again to continue.
#
#   sbatch --nodes=4 launch/slurm.sh [--dry-run] CONFIG WORKDIR [KEY=VALUE ...]
set -euo pipefail

dry_run=
if [[ ${1-} == --dry-run ]]; then
    dry_run=1
    shift
fi
if (( $# < 2 )); then
    echo "usage: sbatch --nodes=N launch/slurm.sh [--dry-run] CONFIG WORKDIR [KEY=VALUE ...]" >&2
    exit 2
fi
config=$1 workdir=$2
shift 2

# Several nodes find each other through Slurm's own variables (fpgan/parallel.py).
# JAX would take one GPU per task there; every task has all of its node's.
if (( ${SLURM_NNODES:-1} > 1 )); then
    export FPGAN_DISTRIBUTED=auto
    JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $(( ${SLURM_GPUS_ON_NODE:-8} - 1 )))
    export JAX_LOCAL_DEVICE_IDS
fi
command=(srun --kill-on-bad-exit=1 fpgan train --config "$config" --workdir "$workdir" "$@")
if [[ -n $dry_run ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi

stopped=
"${command[@]}" &
job=$!
trap 'stopped=1; kill -TERM "$job"' TERM
status=0
wait "$job" || status=$?
if [[ -n $stopped ]]; then
    wait "$job" && status=0 || status=$?  # the first wait was cut short by the signal
    (( status == 0 )) && scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
