#!/usr/bin/env bash
# A private Slurm cluster on this machine, for tests: two nodes as two slurmd daemons, own key, own ports, nothing outside DIR.
#
#   tests/slurm_cluster.sh start DIR      DIR must not exist; afterwards: export SLURM_CONF=DIR/slurm.conf
#   tests/slurm_cluster.sh stop DIR       cancels what runs, ends the daemons that DIR's pid files name
#
# Needs root and the packages slurm-wlm and munge. The first node is called localhost, because JAX takes its coordinator's
# address from the list of nodes. No cgroups, so that it runs within containers.
set -euo pipefail
PATH=$PATH:/usr/sbin

free_ports() {
    python3 - "$1" <<'PYTHON'
import socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in sockets))
PYTHON
}

write_config() {
    local control first second
    read -r control first second <<<"$(free_ports 3)"
    cat >"$dir/slurm.conf" <<CONF
ClusterName=fpgan-test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$control
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmctldPidFile=$dir/slurmctld.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmdLogFile=$dir/slurmd-%n.log
SlurmdSpoolDir=$dir/spool-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/linear
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
MinJobAge=86400
KillWait=30
NodeName=127.0.0.1 NodeAddr=127.0.0.1 Port=$first CPUs=1 RealMemory=1024
NodeName=second NodeAddr=127.0.0.1 Port=$second CPUs=1 RealMemory=1024
PartitionName=all Nodes=127.0.0.1,second Default=YES MaxTime=INFINITE
CONF
}

start() {
    mkdir -m 755 "$dir"
    mkdir "$dir/state" "$dir/spool-127.0.0.1" "$dir/spool-second"
    (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
    munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" --pid-file="$dir/munged.pid" \
        --seed-file="$dir/munge.seed" --log-file="$dir/munged.log" 2>"$dir/munged.err"
    write_config
    export SLURM_CONF=$dir/slurm.conf
    slurmctld
    slurmd -N 127.0.0.1
    slurmd -N second
    for _ in {1..120}; do
        [[ $(sinfo -h -o %T) == idle ]] && return
        sleep 0.5
    done
    tail -n 20 "$dir"/*.log >&2
    return 1
}

stop() {
    export SLURM_CONF=$dir/slurm.conf
    local ids=() name
    timeout 20 scancel --full --signal=KILL --user root || true
    for _ in {1..120}; do
        [[ -n $(timeout 5 squeue -h 2>/dev/null) ]] || break
        sleep 0.5
    done
    for name in slurmd-127.0.0.1 slurmd-second slurmctld munged; do
        [[ -f $dir/$name.pid ]] && ids+=("$(<"$dir/$name.pid")")
    done
    (( ${#ids[@]} == 0 )) || kill "${ids[@]}" || true
    for _ in {1..40}; do
        (( ${#ids[@]} == 0 )) || ! kill -0 "${ids[@]}" 2>/dev/null || { sleep 0.25; continue; }
        return
    done
    kill -KILL "${ids[@]}" || true
}

if (( $# != 2 )) || [[ $1 != start && $1 != stop ]]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
dir=$(realpath -m "$2")
"$1"
