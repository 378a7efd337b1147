"""Run the code blocks of a Markdown page in order, in the current directory: `python run_page.py PAGE`.

Python blocks share one namespace and bash blocks one directory, as a reader would type them. A block after
`<!-- file: NAME -->` is written to that file instead; one after `<!-- not run: WHY -->` is left out. Blocks of other
languages are shown output or configuration and are not run.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(
    r"(?:<!--\s*(?P<what>file|not run):\s*(?P<word>[^>]*?)\s*-->\s*\n+)?^```(?P<lang>[\w-]*)[^\n]*\n(?P<body>.*?)^```",
    re.M | re.S,
)


def blocks(text):
    for match in BLOCK.finditer(text):
        yield match["what"], match["word"], match["lang"], match["body"]


def run(page):
    namespace = {"__name__": "__main__"}
    ran = 0
    for what, word, language, body in blocks(Path(page).read_text()):
        if what == "not run":
            continue
        if what == "file":
            Path(word).parent.mkdir(parents=True, exist_ok=True)
            Path(word).write_text(body)
        elif language == "python":
            exec(compile(body, f"{page} (block {ran})", "exec"), namespace)
        elif language == "bash":
            subprocess.run(["bash", "-euo", "pipefail", "-c", body], check=True)
        else:
            continue
        ran += 1
    return ran


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # as for a script of the reader's; the folder of tests has folders named as the packages
    print(f"{run(sys.argv[1])} blocks of {sys.argv[1]} ran")
