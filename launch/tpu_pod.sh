#!/usr/bin/env bash
# First version, not run on a TPU here. Trains on a TPU VM or pod slice that exists: the same command on every worker, with
# fpgan installed there and WORKDIR on storage that all workers share.
#
#   launch/tpu_pod.sh [--dry-run] TPU_NAME ZONE CONFIG WORKDIR [KEY=VALUE ...]
set -euo pipefail

dry_run=
if [[ ${1-} == --dry-run ]]; then
    dry_run=1
    shift
fi
if (( $# < 4 )); then
    echo "usage: launch/tpu_pod.sh [--dry-run] TPU_NAME ZONE CONFIG WORKDIR [KEY=VALUE ...]" >&2
    exit 2
fi
tpu=$1 zone=$2 config=$3 workdir=$4
shift 4

printf -v remote '%q ' env FPGAN_DISTRIBUTED=auto fpgan train --config "$config" --workdir "$workdir" "$@"
command=(gcloud compute tpus tpu-vm ssh "$tpu" --zone "$zone" --worker=all --command "cd fpgan && exec $remote")
if [[ -n $dry_run ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
exec "${command[@]}"
