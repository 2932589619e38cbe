#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod slice: the same command on every worker.
#
#   launch/tpu_pod.sh [OPTION ...] TPU ZONE CONFIG WORKDIR [KEY=VALUE ...]
#   launch/tpu_pod.sh my-tpu us-east5-a configs/celeba128.py /mnt/runs/celeba
#   launch/tpu_pod.sh --create v5litepod-64 --spot my-tpu us-west4-a configs/celeba128.py /mnt/runs/celeba
#   --create TYPE      ask for a slice of this type as a queued resource unless TPU exists, wait for it, install fpgan on it;
#                      when it is taken away, queue for another and continue
#   --runtime VERSION  software of a slice that is created (v2-alpha-tpuv5-lite; v2-alpha-tpuv5 for v5p, v2-alpha-tpuv6e)
#   --spot             create one that may be taken away
#   --install          copy this checkout into ~/fpgan-launch on the workers of a TPU that exists, and install it there
#   --setup COMMAND    run on every worker first, such as the mount of the storage
#   --dry-run          print what would run
#
# WORKDIR and the data lie on storage that all workers share. SIGTERM or Ctrl-C here is passed to all workers, where fpgan
# saves; a worker that is taken away saves as well. The same command continues. Not run on a TPU here.
set -euo pipefail

usage() {
    sed -n '/^#   /s/^#   //p' "$0" >&2
    exit 2
}

type='' runtime=v2-alpha-tpuv5-lite spot='' install='' setup='' dry_run=''
while (( $# )); do
    case $1 in
        --create) type=${2-}; shift ;;
        --runtime) runtime=${2-}; shift ;;
        --setup) setup=${2-}; shift ;;
        --spot) spot=--spot ;;
        --install) install=1 ;;
        --dry-run) dry_run=1 ;;
        -*) usage ;;
        *) break ;;
    esac
    shift || usage
done
(( $# >= 4 )) || usage
tpu=$1 zone=$2 config=$3 workdir=$4
shift 4
checkout=$(cd "$(dirname "$0")/.." && pwd)
poll_seconds=${FPGAN_POLL_SECONDS:-30}

run() {
    if [[ -n $dry_run ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

on_all_workers() {
    run gcloud compute tpus tpu-vm ssh "$tpu" --zone "$zone" --worker=all --command "$1"
}

state() {
    gcloud compute tpus queued-resources describe "$tpu" --zone "$zone" --format='value(state.state)' 2>/dev/null || echo NONE
}

# Asks for the slice if need be, and waits until it is there.
ensure() {
    local create=(gcloud compute tpus queued-resources create "$tpu" --node-id "$tpu" --zone "$zone"
        --accelerator-type "$type" --runtime-version "$runtime" ${spot:+"$spot"})
    local delete=(gcloud compute tpus queued-resources delete "$tpu" --zone "$zone" --force --quiet)
    if [[ -n $dry_run ]]; then
        run "${create[@]}"
        install=1
        return
    fi
    while :; do
        case $(state) in
            ACTIVE) return ;;
            NONE)
                "${create[@]}"
                install=1 ;;
            SUSPENDED) "${delete[@]}" ;;  # it was taken away, only its name is left
            FAILED)
                echo "$tpu: the request failed; gcloud compute tpus queued-resources describe $tpu --zone $zone says why" >&2
                exit 1 ;;
            *) sleep "$poll_seconds" ;;
        esac
    done
}

# TPU images bring a Python that is too old; uv fetches one.
install_fpgan() {
    local archive=${TMPDIR:-/tmp}/fpgan-$$.tar.gz
    run tar -czf "$archive" -C "$checkout" setup.cfg pyproject.toml README.md LICENSE NOTICE fpgan configs
    run gcloud compute tpus tpu-vm scp "$archive" "$tpu:fpgan.tar.gz" --zone "$zone" --worker=all
    run rm -f "$archive"
    on_all_workers "mkdir -p ~/fpgan-launch/source && cd ~/fpgan-launch && tar -xzf ~/fpgan.tar.gz -C source && \
pip install -q uv && ~/.local/bin/uv venv -q --allow-existing --python 3.12 env && \
~/.local/bin/uv pip install -q --python env/bin/python 'jax[tpu]' './source[train]'"
}

# What a worker runs. gcloud runs it again when the connection was lost, so it ends a former one first. Its exit status is 143
# when it was told to stop, so that a slice that is taken away does not look finished.
remote_script() {
    local command
    printf -v command '%q ' env "JAX_COMPILATION_CACHE_DIR=$workdir/compiled" \
        fpgan train --config "$config" --workdir "$workdir" "$@"
    cat <<REMOTE
cd ~/fpgan-launch/source || exit; PATH=\$HOME/fpgan-launch/env/bin:\$PATH
old=\$(cat ~/fpgan-launch/pid 2>/dev/null)
if grep -qs 'fpgan train' "/proc/\$old/cmdline" && kill -TERM "\$old"; then
    while kill -0 "\$old" 2>/dev/null; do sleep 1; done
fi
$command&
job=\$!; trap 'stopped=143; kill -TERM \$job' TERM; echo \$\$ >~/fpgan-launch/pid
while kill -0 \$job 2>/dev/null; do wait \$job; done
wait \$job; status=\$?; rm -f ~/fpgan-launch/pid
exit "\${stopped:-\$status}"
REMOTE
}

train() {
    local script status=0
    script=$(remote_script "$@")
    if [[ -n $dry_run ]]; then
        on_all_workers "$script"
        return
    fi
    on_all_workers "$script" &
    job=$!
    while kill -0 "$job" 2>/dev/null; do
        wait "$job" || true  # a signal cuts it short
    done
    wait "$job" || status=$?
    job=
    return "$status"
}

stop() {
    stopped=1
    if [[ -z $job ]]; then exit 143; fi
    # shellcheck disable=SC2016  # expands on the workers
    on_all_workers 'kill -TERM "$(cat ~/fpgan-launch/pid)"' || true
}

job='' stopped=''
trap stop TERM INT
while :; do
    if [[ -n $type ]]; then ensure; fi
    if [[ -n $install ]]; then install_fpgan; fi
    if [[ -n $setup ]]; then on_all_workers "$setup"; fi
    install='' status=0
    train "$@" || status=$?
    if (( status == 0 )) || [[ -n $stopped || -z $type ]]; then exit "$status"; fi
    sleep "$poll_seconds"
    if [[ $(state) == ACTIVE ]]; then exit "$status"; fi
    echo "$tpu was taken away; queueing for another" >&2
done
