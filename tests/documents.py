"""The examples in README and docs: the blocks of a document, and the commands in a block."""

import re
import shlex
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def blocks(language: str, having: str, document: str = "README.md") -> list[str]:
    """A document's fenced blocks of a language that contain a word."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", (REPOSITORY / document).read_text(), re.DOTALL | re.MULTILINE)
    return [body for tag, body in found if tag == language and having in body]


def lines(block: str) -> list[str]:
    """The commands of a shell block, each on one line: a backslash or an open quote continues a line."""
    found = [""]
    for line in block.splitlines():
        if line.startswith("#"):
            continue
        found[-1] += line.removesuffix("\\")
        if not line.endswith("\\") and found[-1].count("'") % 2 == 0:
            found.append("")
    return [line for line in found if line]


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in lines(block)]
