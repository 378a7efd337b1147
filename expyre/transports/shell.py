"""How a script reaches a shell on the other side, whatever shell people log in with, and how its end is told.

The command line is constant but for a random word and a number. It hands a *program*, read from standard input to the
exact byte, to bash, or to sh where there is no bash; the rest of the input is the script's own. Before and after the
script the program writes marks with the random word to both outputs: what profiles and banners wrote before is noise,
and an output without its end mark was cut off, whatever exit status the connection has.
"""

from __future__ import annotations

import secrets
import shlex

__all__ = ["Between", "Marks", "quoted_directory"]

# Every login shell takes this for three words and ||: no quote, backslash, newline or exclamation mark inside of it.
# A program that is not whole does not end in the mark and is not run. dd without fullblock would read too little,
# dd that does not know the word ends before it reads.
_READER = (
    "_xpr=$(dd bs=$2 count=1 iflag=fullblock 2>/dev/null || dd bs=1 count=$2 2>/dev/null); "
    'case $_xpr in *"#$1") eval "$_xpr";; esac; exit 0'
)

# The script runs below the shell that writes the marks, so nothing it does (exit, exec, traps) can keep them back.
# Should it take too long, all processes of the session are killed.
_PROGRAM = """\
unset _xpr; shift $#; cd || exit 0
{watch}printf %s '{begin}'; printf %s '{begin}' >&2
( eval {script} )
set -- "$?"{unwatch}
printf %s '{end}'"$1;" >&2; printf %s '{end}'"$1;"
exit 0
#{word}"""
_WATCH = """\
( sleep {seconds} & trap "kill $! 2>/dev/null; exit 0" TERM; wait $! && kill -9 0 ) </dev/null >/dev/null 2>&1 &
_xpr=$!
"""
_UNWATCH = '; kill "$_xpr" 2>/dev/null'


class Marks:
    """The random word of one script, and what goes to the other side with it."""

    def __init__(self) -> None:
        self.word = secrets.token_hex(12)
        self.begin = f"<{self.word}<".encode()
        self.end = f">{self.word}>".encode()

    def program(self, script: str, timeout: float | None = None) -> bytes:
        """Return what the other side reads before the script's own input.

        Parameters
        ----------
        script
            What to run.
        timeout
            Seconds after which the other side kills it by itself.
        """
        text = _PROGRAM.format(
            watch="" if timeout is None else _WATCH.format(seconds=_decimal(timeout)),
            unwatch="" if timeout is None else _UNWATCH,
            script=shlex.quote(script),
            begin=self.begin.decode(),
            end=self.end.decode(),
            word=self.word,
        )
        return text.encode("utf-8", "surrogateescape")

    def command(self, program: bytes) -> str:
        """Return the command line for the login shell."""
        bash, sh = (f"{shell} -c '{_READER}' {name} {self.word} {len(program)}" for shell, name in _SHELLS)
        return f"{bash} || {sh}"


_SHELLS = (("bash --norc", "bash"), ("/bin/sh", "sh"))


def _decimal(seconds: float) -> str:
    return f"{max(seconds, 0.01):.2f}".rstrip("0").rstrip(".")


class Between:
    """Lets those bytes of an output pass that stand between its marks.

    Attributes
    ----------
    noise
        What stood before the begin mark, as far as it has come.
    begun
        Whether the begin mark has come.
    status
        The exit status that the end mark brought; None before it has come.
    """

    def __init__(self, marks: Marks) -> None:
        self._begin, self._end = marks.begin, marks.end
        self._held = b""
        self.noise = b""
        self.begun = False
        self.status: int | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the output; return those of the script."""
        if self.status is not None:
            return b""
        self._held += data
        return self._payload() if self.begun or self._begins() else b""

    def _begins(self) -> bool:
        before, mark, after = self._held.partition(self._begin)
        self.noise = before[-10_000:]
        if mark:
            self.begun, self._held = True, after
        return self.begun

    def _payload(self) -> bytes:
        payload, mark, after = self._held.partition(self._end)
        number, semicolon, _ = after.partition(b";")
        if semicolon:
            self.status, self._held = int(number), b""
        elif mark:
            self._held = mark + after
        else:
            may_be_mark = max(0, len(payload) - len(self._end) + 1)
            payload, self._held = payload[:may_be_mark], payload[may_be_mark:]
        return payload


def quoted_directory(directory: str) -> str:
    """Return a directory as a word of a shell script, wherever that starts; relative ones are below the home."""
    for prefix in ("~", "$HOME", "${HOME}"):
        if directory == prefix or directory.startswith(f"{prefix}/"):
            return '"$HOME"' + shlex.quote(directory[len(prefix) :]).removeprefix("''")
    if directory.startswith("/"):
        return shlex.quote(directory)
    return '"$HOME"/' + shlex.quote(directory) if directory else '"$HOME"'
