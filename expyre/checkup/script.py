"""The one shell script that looks at a host: every question framed by a mark and limited in time."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from expyre.schedulers.text import pre_submit_script
from expyre.transports import quoted_directory

__all__ = ["PACKAGES", "TOOLS", "Question", "part", "script"]

PACKAGES: Final = ("cloudpickle", "numpy", "ase", "wfl", "expyre")
TOOLS: Final = (
    "bash", "tar", "gzip", "timeout", "nohup",
    "sbatch", "squeue", "scontrol", "scancel", "sacct", "sinfo", "sacctmgr",
    "qsub", "qstat", "qdel", "qhold", "qrls", "pbsnodes", "qmgr", "qconf", "qhost", "qacct",
    "flux", "bsub", "condor_submit",
)  # fmt: skip

# Standard error of a part is caught in a variable: no file is written, so it works on a host that is full.
_HELPERS = r"""cd "$HOME" 2>/dev/null
lim() { t=$1; shift; if command -v timeout >/dev/null 2>&1; then timeout -k 2 "$t" "$@"; else "$@"; fi; }
have() { command -v "$1" >/dev/null 2>&1; }
is_ge() {
if [ -z "$ge" ]; then
ge=$(have qconf && lim 10 qstat -help 2>&1 </dev/null | head -n 1 | grep -E '^(SGE|UGE|AGE|GE|OGS)|Grid Engine')
ge=${ge:-no}
fi
[ "$ge" != no ]
}
part() {
n=$1; t=$2; shift 2
printf '\n%s begin %s\n' "$M" "$n"
{ e=$(lim "$t" "$@" </dev/null 2>&1 1>&3 3>&-); r=$?; } 3>&1
printf '\n%s error %s\n%s\n%s end %s %s\n' "$M" "$n" "$e" "$M" "$n" "$r"
}
"""

_WHO = r"""echo "clock=$(date +%s)"; echo "user=$(id -un)"; echo "groups=$(id -Gn)"
echo "host=$(hostname 2>/dev/null || uname -n)"; echo "home=$HOME"; echo "shell=$SHELL"; echo "system=$(uname -srm)"
echo "cores=$(nproc 2>/dev/null)"; echo "memory=$(sed -n 's/^MemTotal: *//p' /proc/meminfo 2>/dev/null)"
echo "scratch=${SCRATCH:-${WORK:-}}"
"""

# Other Pythons than the one in PATH: environments in the home directory, and what modules offer.
_OTHERS = r"""n=0
for p in "$HOME"/.venv/bin/python3 "$HOME"/*/bin/python3 "$HOME"/.conda/envs/*/bin/python3 \
 "$HOME"/*/envs/*/bin/python3 /opt/*/bin/python3 /usr/local/bin/python3 /usr/bin/python3
do
[ -x "$p" ] || continue
n=$((n+1)); [ $n -gt 12 ] && break
v=$("$p" -c "import sys; print(sys.version.split()[0])" 2>/dev/null) || continue
"$p" -c "import cloudpickle" >/dev/null 2>&1 && c=yes || c=no
echo "$p=$v $c"
done
"""
_MODULES = r"""source /etc/profile >/dev/null 2>&1
module -t avail python 2>&1 | grep -iE '^(python|.*/python|.*conda)' | head -n 5
"""

# Writes and removes one MiB where the run directory is, or in the nearest directory above it that exists.
_PLACE = r"""d=$1; a=$d
[ -d "$d" ] && echo exists=yes
[ -e "$d" ] && [ ! -d "$d" ] && echo "obstacle=$d"
while [ ! -d "$a" ]; do a=$(dirname "$a"); done
echo "path=$(cd "$a" 2>/dev/null && pwd -P || echo "$a")"
p=$a/.expyre_check_$$_$2
trap 'rm -rf "$p"' EXIT
if w=$(mkdir -m 700 "$p" 2>&1) && w=$(dd if=/dev/zero of="$p/file" bs=65536 count=16 conv=fsync 2>&1)
then echo writable=yes; else echo "trouble=$(echo "$w" | head -n 1)"; fi
rm -rf "$p"
echo "kind=$(stat -f -c %T "$a" 2>/dev/null)"
echo "space=$(df -Pk "$a" 2>/dev/null | tail -n 1)"
echo "inodes=$(df -Pi "$a" 2>/dev/null | tail -n 1)"
"""

# Any Python, however old, must be able to say how old it is; no single quotes in here.
_PYTHON = """import sys
def say(key, value):
    sys.stdout.write("\\n%s py %s=%s\\n" % (sys.argv[1], key, value))
say("executable", sys.executable)
say("version", "%d.%d.%d" % tuple(sys.version_info[:3]))
try:
    from importlib import metadata, util
except ImportError:
    metadata = util = None
for name in sys.argv[2:]:
    found = ""
    try:
        found = metadata.version(name)
    except Exception:
        try:
            found = "?" if util.find_spec(name) else ""
        except Exception:
            pass
    say("has " + name, found)
"""


@dataclass(frozen=True)
class Question:
    """What is to be found out about a host.

    Attributes
    ----------
    place
        Directory under which jobs will run.
    python
        Command that starts Python in a job.
    commands
        Lines that come before it in every job script.
    script_exec
        What runs job scripts.
    pre_submit_cmds
        Shell words run before submission.
    queues
        Scripts that ask queue systems.
    quota
        Whether to ask for the quota of the user.
    search
        Whether to look for other Pythons.
    """

    place: str
    python: str = "python3"
    commands: tuple[str, ...] = ()
    script_exec: str = "/bin/bash"
    pre_submit_cmds: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    quota: bool = False
    search: bool = False


def script(question: Question, mark: str) -> str:
    """Return the script; its answers stand between lines that begin with ``mark``."""
    parts = [
        f"M={mark}; ge=",
        _HELPERS,
        part("who", 10, ["sh", "-c", _WHO]),
        _in_this_shell("tools", _each_tool(TOOLS)),
        _ready_tools(question.pre_submit_cmds),
        f"part place 30 sh -c {shlex.quote(_PLACE)} sh {quoted_directory(question.place)} {mark[-8:]}",
        "have quota && part quota 5 quota" if question.quota else "",
        *question.queues,
        *_search(question.search),
        part("python", 60, _job_words(question, mark)),
        "exit 0",
    ]
    return "\n".join(filter(None, parts)) + "\n"


def _search(wanted: bool) -> list[str]:
    return [part("others", 40, ["sh", "-c", _OTHERS]), part("modules", 20, ["bash", "-c", _MODULES])] if wanted else []


def part(name: str, seconds: int, words: Iterable[str]) -> str:
    """Return the line of the script that runs a command, framed and limited in time."""
    return f"part {name} {seconds} {' '.join(shlex.quote(word) for word in words)}"


def _in_this_shell(name: str, text: str) -> str:
    """Return a part that runs in (a copy of) the shell that will submit, with its functions and aliases."""
    frame = f"printf '\\n%s begin {name}\\n' \"$M\"\n( {text}\n) </dev/null 2>/dev/null"
    return f'{frame}\nprintf \'\\n%s error {name}\\n%s end {name} 0\\n\' "$M" "$M"'


def _each_tool(names: Sequence[str]) -> str:
    return f'for c in {" ".join(names)}; do p=$(command -v "$c") && echo "$c=$p"; done'


def _ready_tools(pre_submit_cmds: Sequence[str]) -> str:
    if not pre_submit_cmds:
        return ""
    prepare = f"{{ {pre_submit_script(pre_submit_cmds)}\n}} >/dev/null && echo prepared=yes\n"
    return _in_this_shell("ready", prepare + _each_tool(TOOLS))


def _job_words(question: Question, mark: str) -> list[str]:
    """Return the words that run the beginning of a job as its script would be run."""
    program = shlex.quote(f"exec({json.dumps(_PYTHON)})")
    ask = f"{question.python} -c {program} {mark} {' '.join(PACKAGES)}"
    say = f"echo; echo {mark} py "
    lines = [f"{say}began=", *question.commands, f"{say}ready=", ask]
    return [*shlex.split(question.script_exec), "-c", "\n".join(lines)]
