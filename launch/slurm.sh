#!/usr/bin/env bash
#SBATCH --job-name=fpgan
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
# First version, not run on a cluster here. One task per node, all GPUs of a node in one process. Slurm sends SIGTERM two
# minutes before the end; fpgan saves, and the requeued job continues.
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
if (( ${SLURM_NNODES:-1} > 1 )); then
    export FPGAN_DISTRIBUTED=auto
fi
command=(srun --kill-on-bad-exit=1 fpgan train --config "$config" --workdir "$workdir" "$@")
if [[ -n $dry_run ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
exec "${command[@]}"
