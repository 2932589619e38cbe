#!/usr/bin/env bash
# Trains on all GPUs of this host. Signals reach fpgan: SIGTERM saves and exits with 0; start again to continue.
#
#   launch/gpu_host.sh [--dry-run] CONFIG WORKDIR [KEY=VALUE ...]
#   launch/gpu_host.sh configs/robohash64.py runs/cats batch_size=128
set -euo pipefail

dry_run=
if [[ ${1-} == --dry-run ]]; then
    dry_run=1
    shift
fi
if (( $# < 2 )); then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
config=$1 workdir=$2
shift 2

# Compiled programs are kept beside the run, so that a restart begins at once.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$workdir/compiled}
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}
command=(fpgan train --config "$config" --workdir "$workdir" "$@")
if [[ -n $dry_run ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
exec "${command[@]}"
