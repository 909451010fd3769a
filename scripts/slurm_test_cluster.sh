#!/usr/bin/env bash
# A Slurm cluster of one machine for tests, beside whatever Slurm the machine has:
#
#   scripts/slurm_test_cluster.sh up DIR     start it; what it needs lies in DIR, the last line says how to use it
#   scripts/slurm_test_cluster.sh down DIR   stop it and delete DIR
#
# It has one node with as many cores as the machine (at least 4 are promised, so that tests do not depend on
# the machine), 4 GPUs that are device files only, and two partitions: `low`, whose jobs `high` preempts: the
# signal that they asked for, 10 s of time, then the queue again. There is no accounting, as on small clusters.
#
# Debian's packages: slurmctld slurmd slurm-client munge. It must run as root: slurmd refuses anybody else
# here, and device files need it. No systemd, nothing outside DIR, no port below 1024.
set -euo pipefail

die() { echo "slurm_test_cluster.sh: $*" >&2; exit 1; }

[[ $# -eq 2 && ($1 == up || $1 == down) ]] || die "usage: slurm_test_cluster.sh up|down DIR"
command=$1
dir=$(realpath -m "$2")

down() { # end the jobs, then the daemons that this script started, and wait until they are gone
    local pids=() pid
    [[ -e $dir ]] || return 0
    [[ -e $dir/munge.key ]] || die "$dir holds no test cluster, and is left as it is"
    export SLURM_CONF=$dir/slurm.conf
    if [[ -s $dir/slurmctld.pid ]]; then
        timeout 5 scancel --quiet --signal=KILL --full --user="$(id -un)" 2>/dev/null || true
        timeout 5 scancel --quiet --user="$(id -un)" 2>/dev/null || true
        for _ in {1..30}; do [[ -n $(squeue --noheader 2>/dev/null) ]] || break; sleep 0.1; done
    fi
    for name in slurmd slurmctld munged; do
        # A number that another program has by now is none of ours.
        if [[ -s $dir/$name.pid ]] && pid=$(<"$dir/$name.pid") && [[ $(ps -o comm= -p "$pid") == "$name" ]]; then
            pids+=("$pid")
        fi
    done
    if ((${#pids[@]})); then kill "${pids[@]}" 2>/dev/null || true; fi
    for pid in "${pids[@]}"; do
        for _ in {1..20}; do kill -0 "$pid" 2>/dev/null || continue 2; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
}

if [[ $command == down ]]; then down; exit 0; fi

[[ $(id -u) -eq 0 ]] || die "must run as root (sudo): slurmd starts jobs for others, and GPUs are made by mknod"
for program in slurmctld slurmd sbatch munged; do
    command -v "$program" >/dev/null || die "$program is missing; apt-get install slurmctld slurmd slurm-client munge"
done
((${#dir} < 80)) || die "$dir is too long for the path of a socket; give a shorter DIR"
[[ -z $(ls -A "$dir" 2>/dev/null) ]] || die "$dir is not empty; give another DIR, or stop what is there: $0 down $dir"
mkdir -p "$dir"
trap 'status=$?; trap - EXIT; tail -n 5 "$dir"/*.log >&2 || true; down; exit $status' EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
host=$(hostname -s)
cores=$(nproc)
if (( cores < 4 )); then cores=4; fi
mkdir -p "$dir"/{state,spool,gres}
chmod 755 "$dir"

# munge refuses to run as root unless told so, and its socket must be reachable by all.
dd if=/dev/urandom of="$dir/munge.key" bs=32 count=1 status=none
chmod 400 "$dir/munge.key"
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munged.seed"

for i in 0 1 2 3; do
    mknod "$dir/gres/nvidia$i" c 195 "$i"
    echo "Name=gpu File=$dir/gres/nvidia$i"
done >"$dir/gres.conf"

cat >"$dir/slurm.conf" <<CONF
ClusterName=warmstart
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
# Commands that find no controller give up sooner.
MessageTimeout=5
MailProg=/bin/true
ReturnToService=2
# A job that has ended stays known for a minute only, as on a busy cluster.
MinJobAge=60
KillWait=5
SlurmctldTimeout=300
SlurmdTimeout=300
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0,defer=no
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=16000 Gres=gpu:4 State=UNKNOWN
PartitionName=low Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=1 GraceTime=10 DefMemPerCPU=1000
PartitionName=high Nodes=$host MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=10 PreemptMode=OFF DefMemPerCPU=1000
CONF

export SLURM_CONF=$dir/slurm.conf
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N "$host"
for _ in {1..100}; do
    if sinfo --noheader --format=%T 2>/dev/null | grep -q '^idle$'; then
        trap - EXIT
        echo "export SLURM_CONF=$SLURM_CONF"
        exit 0
    fi
    sleep 0.1
done
die "the node does not become idle: $(sinfo 2>&1 | tail -n 1)"
