#!/usr/bin/env bash
#SBATCH --job-name=fpgan
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# Trains on the nodes of a Slurm job: one task per node, with all GPUs of its node.
#
#   sbatch --nodes=4 --gpus-per-node=8 --exclusive launch/slurm.sh CONFIG WORKDIR [KEY=VALUE ...]
#   launch/slurm.sh --dry-run CONFIG WORKDIR [KEY=VALUE ...]
#
# Two minutes before the time limit Slurm sends USR1 to this script: the tasks get SIGTERM, fpgan saves, and the job goes back
# into the queue to continue. `scancel JOB` saves and ends; Slurm waits KillWait seconds for it. When a task dies the others
# are ended, and the job fails. In every case the same command continues.
set -euo pipefail

usage() {
    sed -n '/^#   /s/^#   //p' "$0" >&2
    exit 2
}

dry_run=
if [[ ${1-} == --dry-run ]]; then
    dry_run=1
    shift
fi
(( $# >= 2 )) || usage
config=$1 workdir=$2
shift 2

variables=("JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$workdir/compiled}")
if (( ${SLURM_NTASKS:-${SLURM_JOB_NUM_NODES:-1}} > 1 )); then
    variables+=(FPGAN_DISTRIBUTED=auto)  # the tasks have to find each other, through Slurm's own variables
fi
# Without --cpu-bind=none a task would have to feed all GPUs from the one core that Slurm gives it by default.
command=(env "${variables[@]}" srun --kill-on-bad-exit=1 --cpu-bind=none
    fpgan train --config "$config" --workdir "$workdir" "$@")
if [[ -n $dry_run ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi

# srun answers a SIGTERM of its own by killing its tasks at once, unsaved; scancel reaches the tasks alone.
requeue=
trap 'requeue=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
trap : TERM  # the tasks have got it from Slurm as well
"${command[@]}" &
step=$!
while kill -0 "$step" 2>/dev/null; do
    wait "$step" || true  # a signal cuts it short
done
status=0
wait "$step" || status=$?
if [[ -n $requeue ]] && (( status == 0 )); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
