from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
from fcntl import ioctl
from termios import TIOCSWINSZ

XPR = (sys.executable, "-m", "expyre.cli")


def make_id(name: str, number: int = 0) -> str:
    return f"{name}_{'Q' * 42}{number % 10}=_abcd{number:04d}"


def on_terminal(words: list[str], columns: int, answers: bytes = b"") -> tuple[int, str]:
    """Run a command on a terminal of so many columns; return its exit code and what the terminal got."""
    leader, follower = pty.openpty()
    ioctl(follower, TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen([*XPR, *words], stdin=follower, stdout=follower, stderr=follower, env=env)
    os.close(follower)
    os.write(leader, answers)
    received = b""
    while process.poll() is None or select.select([leader], [], [], 0)[0]:
        if select.select([leader], [], [], 0.05)[0]:
            try:
                received += os.read(leader, 65536)
            except OSError:
                break
    os.close(leader)
    return process.wait(), received.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    """Return terminal output without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
