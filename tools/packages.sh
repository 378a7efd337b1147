#!/bin/sh
# Install the named Debian packages whose commands are missing: tools/packages.sh COMMAND[=PACKAGE] …
# Only as root and with apt; otherwise say what is missing, so that what needs it is skipped.
set -eu
missing=
for item in "$@"; do
    command -v "${item%%=*}" >/dev/null 2>&1 || missing="$missing ${item#*=}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing$missing" >&2
    # shellcheck disable=SC2086 # words are packages
    if apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null; then
        exit 0
    fi
fi
echo "not installed and not needed by all tests:$missing (those that need it are skipped)" >&2
