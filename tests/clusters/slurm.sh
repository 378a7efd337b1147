#!/bin/bash
# Slurm on this machine, loopback only, in a directory of its own:  slurm.sh start|stop|reset DIRECTORY
# All may be repeated; "reset" kills whatever belongs to it, forgets all jobs and starts it again. Any user can: all daemons and jobs are that user's then (root: whoever submits).
# Commands find it through  SLURM_CONF=DIRECTORY/slurm.conf.  "stop" keeps the directory.
#
#   SLURM_PORT=21000   first of the ports: controller, daemons, accounting, database, then one per node
#   SLURM_NODES=2      nodes node1, node2, … of SLURM_CPUS=8 pretended CPUs and two pretended GPUs each
#   SLURM_DBD=1        real accounting (sacct) in a MariaDB of its own; memory limits end jobs
#   SLURM_SETTINGS     more settings of slurm.conf, "MinJobAge=2 MaxArraySize=11"
#   SLURM_INSTALL=1    as root, install what is missing
set -eu
cd "$(dirname "$0")"
here=$PWD
umask 022
export PATH=$PATH:/usr/sbin:/sbin
command=${1:-} dir=${2:-/tmp/wfl-slurm}
port=${SLURM_PORT:-21000} nodes=${SLURM_NODES:-2} cpus=${SLURM_CPUS:-8} dbd=${SLURM_DBD:-0}
host=$(hostname -s) me=$(id -un)
export SLURM_CONF=$dir/slurm.conf

die() { echo "slurm.sh: $*" >&2; exit 1; }

alive() { # PROGRAM PIDFILE: a zombie is not, and the number of one that was killed may be somebody else's now
    local pid
    [ -s "$2" ] && pid=$(cat "$2") && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] &&
        ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null
}

wait_for() { # SECONDS COMMAND…
    local last=$((SECONDS + $1))
    until "${@:2}" >/dev/null 2>&1; do
        [ "$SECONDS" -le "$last" ] || return 1
        sleep 0.05
    done
}

have_programs() {
    local program
    for program in "$@"; do command -v "$program" >/dev/null || return 1; done
}

install_missing() {
    local programs=(munged slurmctld slurmd sbatch) lib=/usr/lib/*/slurm-wlm
    [ "$dbd" = 1 ] && programs+=(slurmdbd mariadbd)
    have_programs "${programs[@]}" && return 0
    if [ "${SLURM_INSTALL:-0}" = 1 ]; then
        local packages=(munged=munge slurmctld slurmd sbatch=slurm-client "$lib/select_cons_tres.so=slurm-wlm-basic-plugins")
        [ "$dbd" = 1 ] && packages+=(slurmdbd mariadbd=mariadb-server "$lib/jobcomp_mysql.so=slurm-wlm-mysql-plugin")
        "$here/../../tools/packages.sh" "${packages[@]}"
    fi
    have_programs "${programs[@]}" || die "not installed: Slurm (SLURM_INSTALL=1, as root, installs it)"
}

start_munge() {
    alive munged "$dir/munge/pid" && return 0
    mkdir -p "$dir/munge"
    [ -s "$dir/munge/key" ] || (umask 077 && head -c 128 /dev/urandom >"$dir/munge/key")
    munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
        --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" --num-threads=2 2>"$dir/log/munged.start"
}

accounting_settings() {
    if [ "$dbd" = 1 ]; then
        cat <<-CONF
		AccountingStorageType=accounting_storage/slurmdbd
		AccountingStorageHost=127.0.0.1
		AccountingStoragePort=$((port + 2))
		AccountingStoragePass=$dir/munge/socket
		JobCompType=jobcomp/none
		JobAcctGatherType=jobacct_gather/linux
		JobAcctGatherFrequency=task=1
		JobAcctGatherParams=OverMemoryKill
		CONF
    else
        echo AccountingStorageType=accounting_storage/none
        echo JobCompType=jobcomp/none
        echo JobAcctGatherType=jobacct_gather/none
    fi
}

node_lines() { # this build of slurmd wants a host name of its own for every node, but never looks it up
    local i
    for ((i = 1; i <= nodes; i++)); do
        echo "NodeName=node$i NodeHostname=127.0.1.$i NodeAddr=127.0.0.1 Port=$((port + 3 + i)) CPUs=$cpus Boards=1" \
            "SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=16000 Gres=gpu:2 State=UNKNOWN"
    done
}

settings() {
    cat <<-CONF
	ClusterName=fake$port
	SlurmctldHost=$host(127.0.0.1)
	SlurmUser=$me
	SlurmdUser=$me
	AuthType=auth/munge
	CredType=cred/munge
	AuthInfo=socket=$dir/munge/socket
	SlurmctldPort=$port
	SlurmdPort=$((port + 1))
	CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
	StateSaveLocation=$dir/state
	SlurmdSpoolDir=$dir/spool/%n
	SlurmctldPidFile=$dir/run/slurmctld.pid
	SlurmdPidFile=$dir/run/slurmd.%n.pid
	SlurmctldLogFile=$dir/log/slurmctld.log
	SlurmdLogFile=$dir/log/slurmd.%n.log
	ProctrackType=proctrack/linuxproc
	TaskPlugin=task/none
	MpiDefault=none
	SwitchType=switch/none
	SlurmdParameters=config_overrides
	SelectType=select/cons_tres
	SelectTypeParameters=CR_Core_Memory
	PreemptType=preempt/partition_prio
	PreemptMode=CANCEL
	ReturnToService=2
	PropagateResourceLimits=NONE
	RebootProgram=/bin/true
	MailProg=/bin/true
	SchedulerType=sched/backfill
	SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,bf_window=60,default_queue_depth=1000
	MinJobAge=300
	KillWait=2
	CompleteWait=0
	EpilogMsgTime=0
	SlurmdTimeout=300
	SlurmctldTimeout=2
	MessageTimeout=10
	InactiveLimit=0
	WaitTime=0
	MaxJobCount=20000
	MaxArraySize=10001
	GresTypes=gpu
	DefMemPerCPU=100
	CONF
    accounting_settings
}

write_configuration() {
    local setting
    settings >"$dir/slurm.conf.new"
    # MPICH calls its shared memory after the job: what a killed rank of another job 1 has left would be taken for ours
    echo "FirstJobId=$((1000 + (RANDOM * 32768 + RANDOM) % 9000000))" >>"$dir/slurm.conf.new"
    for setting in ${SLURM_SETTINGS:-}; do
        sed -i "/^${setting%%=*}=/d" "$dir/slurm.conf.new"
        echo "$setting" >>"$dir/slurm.conf.new"
    done
    node_lines >>"$dir/slurm.conf.new"
    cat >>"$dir/slurm.conf.new" <<-CONF
	PartitionName=DEFAULT Nodes=node[1-$nodes] State=UP OverSubscribe=NO PreemptMode=OFF PriorityTier=10
	PartitionName=normal Default=YES MaxTime=1-00:00:00 DefaultTime=01:00:00
	PartitionName=debug Nodes=node1 MaxTime=00:30:00 DefaultTime=00:05:00 PriorityTier=20
	PartitionName=gpu MaxTime=1-00:00:00
	PartitionName=spare MaxTime=1-00:00:00 PriorityTier=1 PreemptMode=CANCEL
	CONF
    mv "$dir/slurm.conf.new" "$dir/slurm.conf"
    # any character devices will do as GPUs
    echo "NodeName=node[1-$nodes] Name=gpu File=/dev/null,/dev/zero" >"$dir/gres.conf"
}

sql() { timeout 20 mariadb --no-defaults -S "$dir/run/mysql.sock" -u root "$@"; }

start_database() {
    alive mariadbd "$dir/run/mariadb.pid" && return 0
    [ -d "$dir/mysql/mysql" ] || mariadb-install-db --no-defaults --datadir="$dir/mysql" --user="$me" \
        --auth-root-authentication-method=normal --skip-test-db --innodb-log-file-size=8M >"$dir/log/mysql-install.log" 2>&1
    setsid mariadbd --no-defaults --datadir="$dir/mysql" --user="$me" --bind-address=127.0.0.1 --port=$((port + 3)) \
        --socket="$dir/run/mysql.sock" --pid-file="$dir/run/mariadb.pid" --innodb-buffer-pool-size=64M \
        --innodb-log-file-size=8M --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900 \
        >"$dir/log/mariadb.log" 2>&1 </dev/null &
    wait_for 60 sql -e 'select 1' || die "no database; see $dir/log/mariadb.log"
    sql -e "create user if not exists slurm@'127.0.0.1' identified by 'fake'; grant all on *.* to slurm@'127.0.0.1';
        create user if not exists slurm@localhost identified by 'fake'; grant all on *.* to slurm@localhost"
}

start_accounting() {
    [ "$dbd" = 1 ] || return 0
    start_database
    alive slurmdbd "$dir/run/slurmdbd.pid" && return 0
    cat >"$dir/slurmdbd.conf" <<-CONF
	DbdHost=$host
	DbdAddr=127.0.0.1
	DbdPort=$((port + 2))
	SlurmUser=$me
	AuthType=auth/munge
	AuthInfo=socket=$dir/munge/socket
	StorageType=accounting_storage/mysql
	StorageHost=127.0.0.1
	StoragePort=$((port + 3))
	StorageUser=slurm
	StoragePass=fake
	StorageLoc=slurm_acct
	LogFile=$dir/log/slurmdbd.log
	PidFile=$dir/run/slurmdbd.pid
	CONF
    chmod 600 "$dir/slurmdbd.conf"
    slurmdbd # reads the file beside SLURM_CONF
    wait_for 60 timeout 10 sacctmgr -n show cluster || die "no slurmdbd; see $dir/log/slurmdbd.log"
    sacctmgr -i add cluster "fake$port" >/dev/null 2>&1 || true
    sacctmgr -i add account fake >/dev/null 2>&1 || true
    sacctmgr -i add user "$me" account=fake >/dev/null 2>&1 || true
}

nodes_up() { # a node with a "*" has not answered yet
    [ "$(timeout 5 sinfo -h -N -p normal -o %t | grep -cE '^(idle|mix|alloc)$')" = "$nodes" ]
}

start_slurm() {
    local i
    alive slurmctld "$dir/run/slurmctld.pid" || slurmctld || die "no slurmctld; see $dir/log/slurmctld.log"
    for ((i = 1; i <= nodes; i++)); do
        mkdir -p "$dir/spool/node$i"
        alive slurmd "$dir/run/slurmd.node$i.pid" || slurmd -N "node$i" || die "no slurmd; see $dir/log/slurmd.node$i.log"
    done
    wait_for 60 nodes_up || die "nodes do not come up; see $dir/log"
}

start() {
    install_missing
    mkdir -p "$dir"/{state,spool,log,run}
    start_munge || die "no munged; see $dir/log/munged.start"
    alive slurmctld "$dir/run/slurmctld.pid" || write_configuration # a running one keeps its ports
    start_accounting
    start_slurm
}

end() { # PROGRAM PIDFILE
    local pid
    alive "$@" || return 0
    pid=$(cat "$2")
    kill "$pid" 2>/dev/null || return 0
    wait_for 10 eval "! alive $1 '$2'" || kill -9 "$pid"
}

members() { # [jobs]: daemons, the steps of jobs and what these started, but not people's commands
    local process
    { find /proc/[0-9]*/cwd -maxdepth 0 -lname "$dir/*" 2>/dev/null || true
      grep -lsxzF "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ || true; } | cut -d/ -f3 | sort -u | while read -r process; do
        case $(cat "/proc/$process/comm" 2>/dev/null) in
            slurmstepd) echo "$process" ;;
            slurmctld | slurmd | slurmdbd | mariadbd | munged) [ "${1:-}" = jobs ] || echo "$process" ;;
            *) ! grep -qsz '^SLURM_JOB_ID=' "/proc/$process/environ" || echo "$process" ;;
        esac
    done
}

none_left() { # [jobs]: kill them, and look again: they may have had children meanwhile
    local found
    found=$(members "$@")
    [ -z "$found" ] || { kill -9 $found 2>/dev/null; return 1; }
}

no_jobs() { [ -z "$(timeout 3 squeue -h -o %i)" ]; }

cancel_jobs() {
    local state
    for state in PENDING RUNNING SUSPENDED; do timeout 3 scancel --state=$state -u "$me" 2>/dev/null || return 0; done
    wait_for 3 no_jobs || true
}

stop() {
    local file
    [ -d "$dir" ] || return 0
    if alive slurmctld "$dir/run/slurmctld.pid"; then cancel_jobs; fi
    for file in "$dir"/run/slurmd.*.pid; do end slurmd "$file" & done
    end slurmctld "$dir/run/slurmctld.pid" &
    wait
    wait_for 10 none_left jobs || true
    end slurmdbd "$dir/run/slurmdbd.pid"
    end mariadbd "$dir/run/mariadb.pid"
    end munged "$dir/munge/pid"
    wait_for 10 none_left || die "these cannot be killed:" $(members)
}

reset() {
    wait_for 10 none_left || die "these cannot be killed:" $(members)
    rm -rf "$dir"/{state,spool,run,mysql,munge}
    start
}

case $command in
    start | stop | reset) "$command" ;;
    *) die "usage: slurm.sh start|stop|reset DIRECTORY" ;;
esac
