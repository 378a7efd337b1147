#!/bin/sh
# Make .venv with the package and the named extras: tools/bootstrap.sh test,lint
# A python >= 3.10 with venv is needed; as root on Debian or Ubuntu a missing one is installed.
set -eu
extras=${1:-}
cd "$(dirname "$0")/.."

find_python() {
    for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

if ! python=$(find_python); then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing python3 and python3-venv" >&2
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
    fi
    python=$(find_python) || {
        echo "Python >= 3.10 with the venv module is needed (on Debian or Ubuntu: apt install python3 python3-venv);" \
            "name another one with PYTHON=/path/to/python" >&2
        exit 1
    }
fi

stamp=.venv/.installed-$(echo "$extras" | tr ',' '-')
if [ -f "$stamp" ] && [ "$stamp" -nt pyproject.toml ]; then
    exit 0
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"
touch "$stamp"
