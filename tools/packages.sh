#!/bin/sh
# Install the named Debian packages of which something is missing: tools/packages.sh PROBE[=PACKAGE] …
# A probe is a command, or a file (which may be a glob). Only as root and with apt; otherwise, and where apt cannot
# (no network), say what is missing, so that what needs it is skipped. Services of the packages are not started.
set -eu
PATH=$PATH:/usr/sbin:/sbin

is_there() {
    case $1 in
    /*) for path in $1; do [ -e "$path" ] && return 0; done; return 1 ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

missing() {
    for item in "$@"; do
        is_there "${item%%=*}" || printf ' %s' "${item#*=}"
    done
}

apt() {
    DEBIAN_FRONTEND=noninteractive timeout 900 apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=1 \
        -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 "$@" >/dev/null
}

policy=/usr/sbin/policy-rc.d
install_packages() {
    echo "installing$*" >&2
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && trap 'rm -f $policy' EXIT; }
    apt update || return 0
    # shellcheck disable=SC2086 # words are packages
    apt install -y --no-install-recommends $* && return 0
    # one that does not exist here must not keep the others out
    for package in $*; do apt install -y --no-install-recommends "$package" || true; done
}

wanted=$(missing "$@")
[ -n "$wanted" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    install_packages "$wanted"
    wanted=$(missing "$@")
    [ -n "$wanted" ] || exit 0
fi
echo "not installed:$wanted (tests that need it are skipped)" >&2
