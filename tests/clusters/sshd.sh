#!/bin/bash
# A private SSH server on 127.0.0.1 in a directory of its own:  sshd.sh start|stop DIRECTORY
# Both may be repeated. Any user can; one logs in as oneself, with the key DIRECTORY/user_key. "stop" keeps the directory.
# Clients use it as  ssh -F DIRECTORY/ssh_config lab  (or EXPYRE_SSH_CONFIG=DIRECTORY/ssh_config and the host lab).
#
#   SSHD_PORT=2230     its port
# Logins do not read ~/.bashrc: what a user has there may take long, or leave locks behind when a connection is cut.
#
#   SSHD_SETTINGS      more lines of sshd_config, first of all ("SetEnv PATH=/opt/cluster/bin:/usr/bin:/bin")
#   SSHD_ODD=name      root only: a user of that name, made here, whose shell is csh (where there is one) and whose PATH
#                      is odd; as  lab-odd
set -eu
umask 077
export PATH=$PATH:/usr/sbin:/sbin
command=${1:-} dir=${2:-/tmp/wfl-sshd} port=${SSHD_PORT:-2230} odd=${SSHD_ODD:-}

die() { echo "sshd.sh: $*" >&2; exit 1; }

alive() { # a zombie is not, and the number of one that was killed may be somebody else's now
    local pid
    [ -s "$dir/pid" ] && pid=$(cat "$dir/pid") && grep -qsF -- "$dir/sshd_config" "/proc/$pid/cmdline"
}

keys() {
    local name
    for name in host_key user_key; do
        [ -f "$dir/$name" ] || ssh-keygen -q -t ed25519 -N '' -C wfl-tests -f "$dir/$name"
    done
    [ -f "$dir/known_hosts" ] || echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$dir/host_key.pub")" >"$dir/known_hosts"
    chmod 644 "$dir/user_key.pub"
}

server() {
    cat >"$dir/sshd_config" <<CONF
${SSHD_SETTINGS:-}
Port $port
ListenAddress 127.0.0.1
HostKey $dir/host_key
PidFile $dir/pid
AuthorizedKeysFile $dir/user_key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowUsers $(id -un) $odd
KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org
UsePAM no
UseDNS no
StrictModes no
PrintMotd no
PrintLastLog no
SetEnv SHLVL=5
MaxSessions 100
MaxStartups 100
Subsystem sftp internal-sftp
CONF
    [ -z "$odd" ] || printf 'Match User %s\n    SetEnv SHLVL=5 "PATH=%s"\n' "$odd" "$dir/odd bin:/usr/bin:/bin" >>"$dir/sshd_config"
}

client() {
    cat >"$dir/ssh_config" <<CONF
Host lab-odd
    User ${odd:-$(id -un)}
Host lab-jump
    ProxyJump lab
Host lab lab-*
    HostName 127.0.0.1
    Port $port
    User $(id -un)
    IdentityFile $dir/user_key
    IdentitiesOnly yes
    UserKnownHostsFile $dir/known_hosts
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
CONF
}

odd_user() {
    [ -n "$odd" ] && [ "$(id -u)" = 0 ] || return 0
    id "$odd" >/dev/null 2>&1 && return 0
    useradd -m -s "$(command -v tcsh || command -v csh || echo /bin/sh)" -p '*' "$odd"
    touch "$dir/made_$odd"
}

start() {
    [ -n "$(command -v sshd)" ] && [ -n "$(command -v ssh-keygen)" ] || die "needs sshd and ssh-keygen (openssh-server)"
    mkdir -p "$dir" && chmod 755 "$dir"
    alive && return 0
    [ "$(id -u)" = 0 ] && mkdir -p /run/sshd && chmod 755 /run/sshd
    keys
    [ -f "$dir/sshd_config" ] || server
    [ -f "$dir/ssh_config" ] || client
    odd_user
    for attempt in $(seq 0 199); do
        # again, if its port was still in use by one that was killed
        [ $((attempt % 20)) != 0 ] || alive || "$(command -v sshd)" -f "$dir/sshd_config" -E "$dir/log" ||
            die "sshd does not start: $(tail -n 3 "$dir/log")"
        (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && return 0
        sleep 0.05
    done
    die "sshd does not listen on port $port: $(tail -n 3 "$dir/log")"
}

family() { # a process and all below it
    local child
    echo "$1"
    for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do family "$child"; done
}

stop() { # the server, and every connection with what runs for it
    local user
    alive && kill -9 $(family "$(cat "$dir/pid")") 2>/dev/null
    rm -f "$dir/pid"
    for user in "$dir"/made_*; do
        [ -f "$user" ] && userdel -r "${user##*/made_}" 2>/dev/null && rm -f "$user"
    done
    return 0
}

case $command in
start | stop) "$command" ;;
*) die "start or stop, and a directory" ;;
esac
