"""The shell side of submissions: every unit is submitted once or never, whoever is killed when.

Two parties may decide a unit: the shell that submits it and whoever looks for its jobs later. Each tries to make the
file ``ticket``, which only one can. Before, each says what it is about to do (the submitter by the batch's
``members``, the seeker by a ``void`` file that names the tokens) and only then looks what the other has said; so at
least one of the two sees the other. The submit command writes its answer to a file itself, so that it is not lost
with the connection or the shell.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Final

from expyre.errors import SchedulerError
from expyre.schedulers.units import QUEUE_ID_FILE, ROOT, Batch, Unit, token_word
from expyre.transports import quoted_directory

__all__ = ["Found", "Outcome", "Submitted", "find_script", "new_mark", "read_find", "read_submit", "submit_script"]

# Shell functions. `show` copies a file without starting a program. `alive` tells whether the process that a pid file
# names lives: a zombie does not, one on another node is believed in for some minutes, and none submits for an hour.
_FUNCTIONS: Final = r"""
node=$(uname -n)
show() { while IFS= read -r line || [ -n "$line" ]; do printf '%s\n' "$line"; done <"$1" 2>/dev/null; }
take() { (set -C; echo "$1" >"$unit/ticket") 2>/dev/null; }
younger() { [ -n "$(find "$unit/ticket" -mmin "-$1" 2>/dev/null)" ]; }
alive() {
  [ -f "$1" ] && read -r where pid <"$1" || return 1
  if [ "$where" != "$node" ]; then younger 10; return; fi
  kill -0 "$pid" 2>/dev/null && younger 60 || return 1
  ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null
}
report() {
  code=
  [ -f "$unit/status" ] && read -r code <"$unit/status"
  [ -f "$unit/script" ] && kind=array || kind=single
  printf '\n%s unit %s %s %s %s\n' "$mark" "${unit##*/}" "$1" "$kind" "$code"
  [ -f "$unit/answer" ] && show "$unit/answer"
  printf '\n%s error %s\n' "$mark" "${unit##*/}"
  [ -f "$unit/error" ] && show "$unit/error"
}
"""

_SUBMIT: Final = """
mask=$(umask)
umask 077
mark={mark}
{functions}
trap '' HUP PIPE
cd {place} && mkdir -p {root}/{batch} && cd {root} || exit 1
base=$PWD/{batch}
echo "$node $$" >{batch}/pid
# GNU tar would make every link that leads upwards twice
kind=$(tar --version 2>/dev/null)
case $kind in *GNU*) how=xzPof;; *) how=xzof;; esac
if ! tar $how - -C {batch}; then printf '\\n%s broken\\n' "$mark"; exit 1; fi
hits=$(cat void.* */members 2>/dev/null | grep -F -f {batch}/tokens | grep -v -F -f {batch}/settled)
if [ -n "$hits" ]; then printf '\\n%s contested\\n%s\\n\\n%s end\\n' "$mark" "$hits" "$mark"; exit 0; fi
umask "$mask"
{before}
full=
note() {{
  echo "$1" >"$unit/status"
  [ "$1" = 0 ] || ! cat "$unit/answer" "$unit/error" | grep -Eqi -e {full} || full=1
}}
{units}
for name in {names}; do
  unit=$base/$name; word=
  take void || read -r word <"$unit/ticket"
  if [ "$word" = submit ]; then report ended; else report void; fi
done
printf '\\n%s end\\n' "$mark"
"""

_BEFORE: Final = """
if ! {{ {commands}
}} </dev/null >{batch}/before 2>&1; then
  printf '\\n%s unprepared\\n' "$mark"; show {batch}/before; printf '\\n%s end\\n' "$mark"; exit 0
fi
"""

_UNIT: Final = """
unit=$base/{token}
if [ -z "$full" ] && take submit; then
  (echo "$node ${{BASHPID:-$$}}" >"$unit/pid"; {copy}cd {directory} || exit 1
  exec {command}) </dev/null >"$unit/answer" 2>"$unit/error"
  note $?
fi"""

_TIDY: Final = """
find . -maxdepth 1 -name 'void.*' -mtime +2 -exec rm -f {} + 2>/dev/null
find . -maxdepth 1 -type d -name '????*' -mtime +7 2>/dev/null | while read -r old; do
  for link in "$old"/*/*.dir; do [ -e "$link" ] && continue 2; done
  rm -rf "$old"
done
"""

_FIND: Final = """
umask 077
mark={mark}
{functions}
if ! cd {place} 2>/dev/null; then printf '\\n%s end\\n' "$mark"; exit 0; fi
mkdir -p {root} && cd {root} && cat >{void} || exit 1
[ "$(grep -c . {void})" -eq {count} ] || exit 1
sed 's/ .*//' {void} >tokens.{void}
lines=$(cat void.* */members 2>/dev/null | grep -F -f tokens.{void})
rm -f tokens.{void}
printf '\\n%s lines\\n%s\\n' "$mark" "$lines"
n=0
decide() {{
  if take void; then report void; return; fi
  while :; do
    word=
    read -r word <"$unit/ticket"
    if [ "$word" = void ]; then report void; return; fi
    # an empty ticket is that of somebody who was killed while making it, unless the shell still lives
    if [ -f "$unit/status" ]; then state=ended; break; fi
    if ! alive "$unit/pid" && ! alive "${{unit%/*}}/pid"; then state=dead; break; fi
    if [ $n -ge {patience} ]; then state=going; break; fi
    n=$((n + 1)); sleep 0.2 2>/dev/null || sleep 1
  done
  [ ! -f "$unit/status" ] || state=ended
  report $state
  printf '\\n%s age %s\\n' "$mark" "${{unit##*/}}"
  younger 2 && echo young
  printf '\\n%s ids %s\\n' "$mark" "${{unit##*/}}"
  for link in "$unit"/*.dir; do
    file=$link/{queue_id}
    if [ "$file" -nt "$unit/ticket" ] && read -r id <"$file"; then link=${{link##*/}}; echo "${{link%.dir}} $id"; fi
  done
}}
printf '%s\\n' "$lines" | while read -r token batch name index; do [ -z "$index" ] || echo "$batch/$name"; done |
  sort -u | while read -r name; do unit=$PWD/$name; decide </dev/null; done
printf '\\n%s end\\n' "$mark"
"""

_PATIENCE = 300


@dataclass(frozen=True)
class Outcome:
    """What became of a unit.

    Attributes
    ----------
    token
        The unit.
    state
        ``ended``: the submit command has; ``void``: never submitted, and never will be; ``going``: the submit
        command still runs; ``dead``: it was killed.
    status
        Exit code of the submit command.
    answer, error
        Its outputs.
    is_array
        Whether the unit is an array.
    young
        Whether the queue may not have heard yet of what was killed.
    ids
        Remote ids by index that members have told themselves.
    """

    token: str
    state: str
    status: int | None = None
    answer: str = ""
    error: str = ""
    is_array: bool = False
    young: bool = False
    ids: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Submitted:
    """What a submitting script has told: outcomes by unit, or why it has submitted nothing at all."""

    outcomes: dict[str, Outcome]
    contested: tuple[str, ...] = ()
    unprepared: str | None = None


@dataclass(frozen=True)
class Found:
    """What a seeking script has told.

    Attributes
    ----------
    lines
        Where the tokens are named, as (token, batch or void file, unit, index); the last two empty for void files.
    outcomes
        Outcomes by unit.
    """

    lines: list[tuple[str, str, str, int]]
    outcomes: dict[str, Outcome]


def new_mark() -> str:
    """Return a word that no answer contains by chance."""
    return f"=== {token_hex(8)}"


def submit_script(
    batch: Batch, commands: Sequence[str], *, mark: str, before: str, full: str, script_name: str, tidy: bool
) -> str:
    """Return the script that submits a batch whose archive is its standard input.

    Parameters
    ----------
    batch
        The batch.
    commands
        A submit command for each unit, run in the directory of the job or, for arrays, of the unit. The variable
        ``unit`` holds the unit's directory.
    mark
        What the parts of the output begin with.
    before
        Shell text run before submission; empty for none.
    full
        Regular expression that tells from what a failed command has said that the queue is full.
    script_name
        Name of job scripts.
    tidy
        Whether to remove what was left by earlier batches of which no job's directory exists any more.
    """
    units = [_unit_text(batch, unit, text, script_name) for unit, text in zip(batch.units, commands, strict=True)]
    return _SUBMIT.format(
        mark=shlex.quote(mark),
        functions=_FUNCTIONS,
        place=quoted_directory(batch.place),
        root=ROOT,
        batch=batch.token,
        before=_BEFORE.format(commands=before, batch=batch.token) if before else "",
        full=shlex.quote(full),
        units="".join(units),
        names=" ".join(unit.token for unit in batch.units),
    ) + (_TIDY if tidy else "")


def _unit_text(batch: Batch, unit: Unit, command: str, script_name: str) -> str:
    directory = '"$unit"' if unit.is_array else quoted_directory(unit.subs[0].directory)
    new = [index for index, sub in zip(unit.indices, unit.subs, strict=True) if sub.id in batch.job_scripts]
    copy = "".join(f'cp "$unit/{i}.new" "$unit/{i}.dir/{script_name}" && ' for i in new)
    return _UNIT.format(token=unit.token, copy=copy, directory=directory, command=command)


def find_script(tokens: Sequence[str], place: str, mark: str) -> tuple[str, bytes]:
    """Return the script that settles the units of jobs' tokens and tells what became of them, and its input."""
    void = f"void.{token_hex(6)}"
    script = _FIND.format(
        mark=shlex.quote(mark),
        functions=_FUNCTIONS,
        place=quoted_directory(place),
        root=ROOT,
        void=void,
        count=len(tokens),
        patience=_PATIENCE,
        queue_id=QUEUE_ID_FILE,
    )
    return script, "".join(f"{token_word(token)} {void}\n" for token in tokens).encode()


def read_submit(text: str, mark: str) -> Submitted:
    """Return what the script of `submit_script` has told.

    Raises
    ------
    SchedulerError
        It has not come to its end.
    """
    parts = _parts(text, mark)
    contested = [body for head, body in parts if head == ["contested"]]
    unprepared = [body.strip() for head, body in parts if head == ["unprepared"]]
    lines = tuple(contested[0].split("\n")) if contested else ()
    return Submitted(_outcomes(parts), lines, unprepared[0] if unprepared else None)


def read_find(text: str, mark: str) -> Found:
    """Return what the script of `find_script` has told.

    Raises
    ------
    SchedulerError
        It has not come to its end.
    """
    parts = _parts(text, mark)
    lines = [words for head, body in parts if head == ["lines"] for words in map(str.split, body.splitlines()) if words]
    full = [(*words, "", "-1")[:4] if len(words) < 4 else words for words in lines]
    return Found([(token, batch, unit, int(index)) for token, batch, unit, index in full], _outcomes(parts))


def _parts(text: str, mark: str) -> list[tuple[list[str], str]]:
    """Return the parts of a script's output as (words of the first line, text); noise before the first is left out."""
    parts = [piece.partition("\n") for piece in text.split(f"\n{mark} ")[1:]]
    if not parts or parts[-1][0].strip() != "end":
        raise SchedulerError("the script that talks to the queue was stopped before its end")
    return [(head.split(), body) for head, _, body in parts]


def _outcomes(parts: Sequence[tuple[list[str], str]]) -> dict[str, Outcome]:
    about = {(head[0], head[1]): body for head, body in parts if len(head) == 2}
    return {
        head[1]: Outcome(
            token=head[1],
            state=head[2],
            status=int(head[4]) if len(head) > 4 else None,
            answer=body,
            error=about.get(("error", head[1]), "").strip(),
            is_array=head[3] == "array",
            young="young" in about.get(("age", head[1]), ""),
            ids=tuple(_ids(about.get(("ids", head[1]), ""))),
        )
        for head, body in parts
        if head[0] == "unit"
    }


def _ids(text: str) -> Iterator[tuple[int, str]]:
    for words in map(str.split, text.splitlines()):
        if len(words) == 2:
            yield int(words[0]), words[1]
