#!/usr/bin/env bash
# Trains on all GPUs of this host, in one process.
#
#   launch/gpu_host.sh [--dry-run] CONFIG WORKDIR [KEY=VALUE ...]
#   launch/gpu_host.sh configs/robohash64.py runs/cats batch_size=128
#
# fpgan takes this script's place, so that every signal reaches it: SIGTERM saves and ends with 0. The same command continues.
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

# Compiled programs are kept beside the run, so that a restart begins at once.
command=(env "JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$workdir/compiled}"
    "XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}"
    fpgan train --config "$config" --workdir "$workdir" "$@")
if [[ -n $dry_run ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
exec "${command[@]}"
