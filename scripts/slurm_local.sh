#!/usr/bin/env bash
# A SLURM of one node on the loopback, for tests and for trying launch=slurm.
#
#   scripts/slurm_local.sh up [FOLDER]       start it; the last line of output is to be evaluated: export SLURM_CONF=…
#   scripts/slurm_local.sh status [FOLDER]   0 if it runs
#   scripts/slurm_local.sh down [FOLDER]     cancel all jobs and stop it
#
# FOLDER keeps keys, state and logs (default ${TMPDIR:-/tmp}/dpforge-slurm). Nothing outside it is written, but
# missing Debian packages (slurm-wlm, munge) are installed. Needs root: slurmd changes users. No systemd, no cgroups.
# Exit code 3: it cannot run here (not root, or no packages), with the reason on stderr.
set -euo pipefail

readonly UNABLE=3
action=${1:-}
folder=${2:-${TMPDIR:-/tmp}/dpforge-slurm}
cpus=${SLURM_LOCAL_CPUS:-$(nproc)}
export SLURM_CONF=$folder/slurm.conf

refuse() {
    echo "slurm_local: $1" >&2
    exit "$UNABLE"
}

install_packages() {
    local missing=()
    command -v slurmctld >/dev/null && command -v slurmd >/dev/null || missing+=(slurm-wlm)
    command -v munged >/dev/null || missing+=(munge)
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || refuse "${missing[*]} are missing and there is no apt-get"
    # Their services would start at once and fail without systemd.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"; } \
        >"$folder/apt.log" 2>&1 || { rm -f /usr/sbin/policy-rc.d; refuse "apt-get could not install ${missing[*]}; see $folder/apt.log"; }
    rm -f /usr/sbin/policy-rc.d
}

free_ports() {
    python3 - "$1" <<'PYTHON'
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
PYTHON
}

write_configuration() {
    local node ports
    node=$(hostname -s)
    read -r -a ports <<<"$(free_ports 2)"
    cat >"$SLURM_CONF" <<CONF
ClusterName=dpforge
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
JobRequeue=1
KillWait=10
MinJobAge=300
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=1024 State=UNKNOWN
PartitionName=local Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
}

start_munge() {
    mkdir -p -m 0711 "$folder/munge"
    chmod 0711 "$folder" "$folder/munge"
    dd if=/dev/urandom of="$folder/munge/key" bs=1 count=1024 status=none
    chmod 0400 "$folder/munge/key"
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
        --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
}

alive() {
    # A process that ended but that nobody waited for still answers signals.
    [ -s "$1" ] && grep -q '^State:[[:space:]]*[^ZX]' "/proc/$(cat "$1")/status" 2>/dev/null
}

running() {
    alive "$folder/munge/pid" && alive "$folder/slurmctld.pid" && alive "$folder/slurmd.pid" &&
        sinfo --noheader --format=%t 2>/dev/null | grep -Eq '^(idle|mix|alloc)$'
}

up() {
    mkdir -p "$folder"
    if ! running; then
        [ "$(id -u)" -eq 0 ] || refuse "slurmd needs root"
        install_packages
        down
        mkdir -p "$folder/state" "$folder/spool"
        write_configuration
        start_munge
        slurmctld -c
        slurmd -c
        for _ in $(seq 100); do
            running && break
            sleep 0.2
        done
        running || {
            echo "slurm_local: it did not come up; see $folder/slurmctld.log and $folder/slurmd.log" >&2
            exit 1
        }
    fi
    echo "export SLURM_CONF=$SLURM_CONF"
}

# Every job is cancelled before the daemons go, since nobody would end it afterwards.
down() {
    if [ -f "$SLURM_CONF" ] && alive "$folder/slurmctld.pid"; then
        scancel --user=root --signal=KILL --full 2>/dev/null || true
        scancel --user=root 2>/dev/null || true
    fi
    local file
    for file in slurmctld.pid slurmd.pid munge/pid; do
        alive "$folder/$file" || continue
        kill "$(cat "$folder/$file")"
        for _ in $(seq 50); do
            alive "$folder/$file" || break
            sleep 0.1
        done
    done
    rm -rf "$folder/state" "$folder/spool" "$folder/munge" "$folder"/*.pid
}

case $action in
up) up ;;
down) down ;;
status) running ;;
*)
    sed -n '2,10p' "$0" >&2
    exit 2
    ;;
esac
