#!/bin/bash
# Grid Engine (Debian's packages) on this machine, one host with 16 pretended slots, 2 GPUs and parallel environments
# smp and mpi:  sge.sh start|stop|reset.  Root only. All may be repeated. There is one of it: "start" takes one that runs
# already as it is, "stop" stops only what "start" has started, and only when nobody holds a lock on $RUN/users.
# "reset" kills what "start" has started, forgets its jobs and starts it again.
#
#   SGE_SLOTS=16     pretended slots
#   SGE_INSTALL=1    install what is missing
#   SGE_WIPE=1       "stop" forgets configuration and jobs too
set -u
cd "$(dirname "$0")" || exit 1
umask 022
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export SGE_ROOT=/var/lib/gridengine SGE_CELL=default
readonly RUN=/run/wfl-sge SPOOL=/var/spool/gridengine COMMON=$SGE_ROOT/$SGE_CELL/common
readonly QMASTER=$SPOOL/qmaster/qmaster.pid
host=$(hostname -s) slots=${SGE_SLOTS:-16}

die() { echo "sge.sh: $*" >&2; exit 1; }

alive() { # a zombie is not, and the number of one that was killed may be somebody else's now
    local pid
    [ -s "$1" ] && pid=$(cat "$1") && grep -qsE '^sge_(qmaster|execd)$' "/proc/$pid/comm" &&
        ! grep -qs '^State:.Z' "/proc/$pid/status"
}

wait_for() { # SECONDS COMMAND…
    local last=$((SECONDS + $1))
    until "${@:2}" >/dev/null 2>&1; do
        [ "$SECONDS" -le "$last" ] || return 1
        sleep 0.1
    done
}

install_missing() {
    local program
    for program in sge_qmaster sge_execd qsub qconf; do
        command -v $program >/dev/null && continue
        [ "${SGE_INSTALL:-0}" = 1 ] || die "not installed: Grid Engine (SGE_INSTALL=1 installs it)"
        DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends \
            gridengine-master gridengine-exec gridengine-client >&2 || die "the packages cannot be installed"
        return 0
    done
}

fence() { # the daemons listen on all addresses and have no option against it
    command -v nft >/dev/null || return 0
    nft delete table inet wfl_sge 2>/dev/null
    [ "$1" = off ] && return 0
    nft add table inet wfl_sge &&
        nft 'add chain inet wfl_sge in { type filter hook input priority 0; policy accept; }' &&
        nft 'add rule inet wfl_sge in iifname != "lo" tcp dport { 6444, 6445 } drop'
}

start_qmaster() {
    # 127.0.0.1 resolves back to "localhost": tell Grid Engine that this is the host
    echo "$host" >$COMMON/act_qmaster
    echo "$host localhost" >$COMMON/host_aliases
    install -d -o sgeadmin -g sgeadmin /run/gridengine $SPOOL/qmaster $SPOOL/qmaster/job_scripts $SPOOL/spooldb $SPOOL/execd
    [ -e $SPOOL/spooldb/sge ] || su -s /bin/sh sgeadmin -c \
        "/usr/share/gridengine/scripts/init_cluster $SGE_ROOT $SGE_CELL $SPOOL/spooldb sgeadmin" >/dev/null
    chown sgeadmin:sgeadmin $COMMON/*
    : >>$RUN/ours # before the daemons: what is half started is stopped, too
    sge_qmaster >&2
    wait_for 30 timeout 5 qconf -sh || { tail -n 5 $SPOOL/qmaster/messages >&2; die "qmaster does not answer"; }
}

configure() {
    qconf -sql 2>/dev/null | grep -qx all.q && return 0
    local t
    t=$(mktemp -d)
    qconf -am root
    qconf -ah "$host"
    qconf -as "$host"
    # act at once
    qconf -ssconf | sed -e 's/^schedule_interval .*/schedule_interval 0:0:1/' -e 's/^flush_submit_sec .*/flush_submit_sec 1/' \
        -e 's/^flush_finish_sec .*/flush_finish_sec 1/' -e 's/^schedd_job_info .*/schedd_job_info true/' >"$t/sched"
    qconf -Msconf "$t/sched"
    SGE_SINGLE_LINE=1 qconf -sconf global | sed -e 's/^load_report_time .*/load_report_time 00:00:05/' \
        -e 's/^min_uid .*/min_uid 0/' -e 's/^min_gid .*/min_gid 0/' -e 's/^mailer .*/mailer \/bin\/true/' \
        -e 's/^reporting_params .*/reporting_params accounting=true reporting=false flush_time=00:00:01 accounting_flush_time=00:00:00 joblog=false sharelog=00:00:00/' >"$t/global"
    qconf -Mconf "$t/global"
    { qconf -sc | grep -v '^#'; echo "gpu gpu INT <= YES YES 0 0"; } >"$t/complex"
    qconf -Mc "$t/complex"
    cat >"$t/host" <<END
hostname $host
load_scaling NONE
complex_values slots=$slots,gpu=2,h_vmem=32G
user_lists NONE
xuser_lists NONE
projects NONE
xprojects NONE
usage_scaling NONE
report_variables NONE
END
    qconf -Ae "$t/host"
    printf 'group_name @allhosts\nhostlist %s\n' "$host" >"$t/group"
    qconf -Ahgrp "$t/group"
    parallel smp "\$pe_slots" FALSE TRUE >"$t/smp"
    parallel mpi "\$fill_up" TRUE FALSE >"$t/mpi"
    qconf -Ap "$t/smp"
    qconf -Ap "$t/mpi"
    queue >"$t/queue"
    qconf -Aq "$t/queue"
    rm -rf "$t"
}

parallel() { # NAME RULE CONTROL FIRST
    cat <<END
pe_name $1
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args /bin/true
stop_proc_args /bin/true
allocation_rule $2
control_slaves $3
job_is_first_task $4
urgency_slots min
accounting_summary TRUE
qsort_args NONE
END
}

queue() {
    local limit
    cat <<END
qname all.q
hostlist @allhosts
seq_no 0
load_thresholds NONE
suspend_thresholds NONE
nsuspend 1
suspend_interval 00:05:00
priority 0
min_cpu_interval 00:05:00
processors UNDEFINED
qtype BATCH INTERACTIVE
ckpt_list NONE
pe_list smp mpi
rerun FALSE
slots $slots
tmpdir /tmp
shell /bin/bash
prolog NONE
epilog NONE
shell_start_mode posix_compliant
starter_method NONE
suspend_method NONE
resume_method NONE
terminate_method NONE
notify 00:00:60
owner_list NONE
user_lists NONE
xuser_lists NONE
subordinate_list NONE
complex_values NONE
projects NONE
xprojects NONE
calendar NONE
initial_state default
END
    for limit in rt cpu fsize data stack core rss vmem; do printf 's_%s INFINITY\nh_%s INFINITY\n' $limit $limit; done
}

host_reports() { timeout 5 qhost -h "$host" | awk -v h="$host" '$1==h && $7!="-"{f=1} END{exit !f}'; }
queue_is_open() { timeout 5 qstat -f | awk '/^all\.q@/ && NF == 5 {open = 1} END {exit !open}'; } # the sixth is trouble

start() {
    install_missing
    mkdir -p $RUN
    exec 9>$RUN/lock
    flock 9
    if ! alive $QMASTER; then
        fence on
        start_qmaster 9>&-
    fi
    configure >&2 9>&-
    # execd calls itself by the reverse name of 127.0.0.1
    if ! alive $SPOOL/execd/localhost/execd.pid; then sge_execd >&2 9>&-; fi
    wait_for 30 host_reports || die "the host does not report"
    wait_for 30 queue_is_open || die "the queue does not open"
}

stop_daemon() {
    local pid
    alive "$1" || return 0
    pid=$(cat "$1")
    kill "$pid"
    wait_for 20 eval "! alive $1" || kill -9 "$pid"
}

no_jobs() { local jobs; jobs=$(timeout 5 qstat -u '*') && [ -z "$jobs" ]; }

none_left() { # kill daemons, shepherds and jobs, and look again: they may have had children meanwhile
    local found
    found=$(grep -lsE '^sge_(qmaster|execd|shepherd)' /proc/[0-9]*/comm | cut -d/ -f3
        grep -lsz "^SGE_JOB_SPOOL_DIR=$SPOOL/" /proc/[0-9]*/environ | cut -d/ -f3)
    [ -z "$found" ] || { kill -9 $found 2>/dev/null; return 1; }
}

reset() {
    [ -e $RUN/ours ] || die "it was not started here, so it is not killed"
    exec 9>$RUN/lock
    flock 9
    wait_for 10 none_left || die "it cannot be killed"
    rm -rf $SPOOL/{spooldb,qmaster,execd} $COMMON/accounting
    start
}

stop() {
    [ -e $RUN/ours ] || return 0
    exec 9>$RUN/lock 8>>$RUN/users
    flock 9
    flock -n 8 || return 0 # somebody uses it
    local file
    timeout 5 qdel -u '*' >/dev/null 2>&1 && wait_for 5 no_jobs
    for file in $SPOOL/execd/*/execd.pid $QMASTER; do stop_daemon "$file"; done
    wait_for 10 none_left
    fence off
    [ "${SGE_WIPE:-0}" = 1 ] && rm -rf $SPOOL/{spooldb,qmaster,execd} $COMMON/accounting
    rm -f $RUN/ours
}

[ "$(id -u)" = 0 ] || die "only root can"
case ${1:-} in
    start | stop | reset) "$1" ;;
    *) die "start, stop or reset?" ;;
esac
