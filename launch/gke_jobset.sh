#!/usr/bin/env bash
# Trains on nodes of a Kubernetes cluster with JobSet: fills in launch/jobset_gpu.yaml or jobset_tpu.yaml, and applies it.
#
#   launch/gke_jobset.sh OPTION ... CONFIG WORKDIR [KEY=VALUE ...]
#   launch/gke_jobset.sh --name cats --image IMAGE --claim fpgan --gpus nvidia-h100-80gb:8 --nodes 2 \
#       configs/robohash64.py /data/runs/cats
#   launch/gke_jobset.sh --name cats --image IMAGE --claim fpgan --tpus tpu-v5-lite-podslice:8x8:4 --nodes 16 \
#       configs/celeba128.py /data/runs/celeba
#   --name NAME                        of the JobSet
#   --image IMAGE                      a container image with fpgan[train], its configs, and JAX for the accelerator
#   --gpus KIND:PER_NODE               the nodes' label cloud.google.com/gke-accelerator, and how many a node has; or
#   --tpus KIND:TOPOLOGY:PER_NODE      the labels gke-tpu-accelerator and gke-tpu-topology, and how many a node has
#   --nodes N                          nodes, that is processes (1)
#   --claim NAME                       a PersistentVolumeClaim that all pods can write, mounted at /data, where WORKDIR lies
#   --dry-run                          print what would run
#
# A run of this name that exists is stopped first. Pods that are told to stop save; then all start again and continue, and so
# does the same command. Not run on a cluster here; the manifests are checked against the published schemas.
set -euo pipefail

usage() {
    sed -n '/^#   /s/^#   //p' "$0" >&2
    exit 2
}

name='' image='' gpus='' tpus='' nodes=1 claim='' dry_run=''
while (( $# )); do
    case $1 in
        --name | --image | --gpus | --tpus | --nodes | --claim)
            printf -v "${1#--}" %s "${2-}"
            shift ;;
        --dry-run) dry_run=1 ;;
        -*) usage ;;
        *) break ;;
    esac
    shift || usage
done
(( $# >= 2 )) || usage
config=$1 workdir=$2
shift 2

# check VALUE PATTERN WHAT
check() {
    [[ $1 =~ ^$2$ ]] || { echo "gke_jobset.sh: $3, not '$1'" >&2; exit 2; }
}
check "$name" '[a-z]([-a-z0-9]{0,38}[a-z0-9])?' "--name takes lower-case letters, digits and dashes, 40 at most"
check "$image" '[A-Za-z0-9./:@_-]+' "--image takes the reference of a container image"
check "$nodes" '[1-9][0-9]*' "--nodes takes a whole number"
check "$claim" '[a-z0-9]([-a-z0-9.]*[a-z0-9])?' "--claim takes the name of a PersistentVolumeClaim"
if [[ -n $tpus ]]; then
    check "$tpus$gpus" '[-a-z0-9]+:[0-9x]+:[0-9]+' "--tpus takes KIND:TOPOLOGY:PER_NODE (and excludes --gpus)"
    template=jobset_tpu.yaml accelerator=${tpus%%:*} devices=${tpus##*:} topology=${tpus#*:}
    topology=${topology%:*}
else
    check "$gpus" '[-a-z0-9]+:[0-9]+' "--gpus takes KIND:PER_NODE"
    template=jobset_gpu.yaml accelerator=${gpus%:*} devices=${gpus#*:} topology=
fi

# A list of words as JSON, which is YAML as well; Kubernetes reads $(X) in it as a variable, and $$ as a dollar.
json() {
    local word list=
    for word; do
        word=${word//\\/\\\\} word=${word//\"/\\\"} word=${word//$'\n'/\\n} word=${word//$'\t'/\\t} word=${word//\$/\$\$}
        list+=", \"$word\""
    done
    printf '[%s]' "${list#, }"
}

# shellcheck disable=SC2016  # the words that are replaced are in the template
manifest() {
    local text arguments
    text=$(<"$(dirname "$0")/$template")
    text=${text//'$NAME'/"$name"} text=${text//'$IMAGE'/"$image"} text=${text//'$NODES'/"$nodes"}
    text=${text//'$ACCELERATOR'/"$accelerator"} text=${text//'$DEVICES'/"$devices"}
    text=${text//'$TOPOLOGY'/"$topology"} text=${text//'$CLAIM'/"$claim"}
    arguments=$(json env "JAX_COMPILATION_CACHE_DIR=$workdir/compiled" fpgan train --config "$config" --workdir "$workdir" "$@")
    printf '%s\n' "${text%%'$ARGUMENTS'*}$arguments${text#*'$ARGUMENTS'}"
}

delete=(kubectl delete jobset "$name" --ignore-not-found --cascade=foreground)
apply=(kubectl apply --filename -)
if [[ -n $dry_run ]]; then
    printf '%q ' "${delete[@]}"
    echo
    printf '%q ' "${apply[@]}"
    printf "<<'MANIFEST'\n%s\nMANIFEST\n" "$(manifest "$@")"
    exit 0
fi
"${delete[@]}"
manifest "$@" | "${apply[@]}"
