"""The comment line of extended XYZ: the layout of the columns and key=value pairs.

Whatever is not understood is kept as text: only the layout of the columns decides how the atoms are read.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from enflow.model.chem.io.text import Line, Token, number, printable
from enflow.model.errors import StructureError

MAX_PAIRS = 1_000
"""Pairs and words taken from one comment; the rest of a longer comment is kept as text."""

LOGICAL = {"T", "F", "true", "false", "True", "False", "TRUE", "FALSE"}


@dataclass(frozen=True)
class Columns:
    """The meaning of the columns of an atom line."""

    kinds: str
    """One letter per column: S text, R number, I integer, L logical."""
    element: int
    position: int
    more: bool
    """Further columns may follow."""


PLAIN = Columns("SRRR", element=0, position=1, more=True)
"""The columns of plain XYZ: element, x, y, z, and anything after them."""


@dataclass(frozen=True)
class Header:
    """The content of a comment line."""

    columns: Columns
    name: str
    properties: dict[str, object]


def read_header(comment: Line) -> Header:
    """Return the content of a comment; a comment without `Properties=` or `Lattice=` is a name.

    Raises:
        StructureError: the layout of the columns cannot be used.
    """
    if not _EXTENDED.search(comment.text):
        return Header(PLAIN, comment.text.strip(), {})
    properties = _pairs(comment.text.rstrip())
    columns = PLAIN
    if (layout := properties.get("Properties")) is not None and ":" in str(layout):
        del properties["Properties"]
        columns = _columns(Token(str(layout), comment.number, comment.text.index("Properties") + 1))
    return Header(columns, str(properties.pop("name", "")), properties)


def comment_line(name: str, properties: Mapping[str, object]) -> str:
    """Return the comment of a frame whose columns are element, x, y and z; None among the properties is left out."""
    named = {"name": name} if name else {}
    pairs = {**named, **properties, **named}
    written = [_written(key, value) for key, value in pairs.items() if value is not None]
    return " ".join(["Properties=species:S:1:pos:R:3", *written])


_EXTENDED = re.compile(r"""(?:^|[ \t])(?:Properties=["']?[^ \t:]+:|Lattice[ ]*=)""")


def _columns(token: Token) -> Columns:
    """Return the columns of `Properties=name:kind:count:...`."""
    parts = token.text.split(":")
    if len(parts) % 3 or not all(re.fullmatch("[1-9][0-9]?", count) for count in parts[2::3]):
        raise token.error("Properties=name:kind:count:..., such as species:S:1:pos:R:3")
    kinds, starts = "", {}
    for name, kind, count in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if kind not in ("S", "R", "I", "L"):
            raise token.error("the kinds S, R, I and L in Properties")
        starts[name, kind, int(count)] = len(kinds)
        kinds += kind * int(count)
    species = starts.get(("species", "S", 1), starts.get(("Z", "I", 1)))
    position = starts.get(("pos", "R", 3))
    if species is None or position is None:
        raise token.error("species:S:1 (or Z:I:1) and pos:R:3 in Properties")
    return Columns(kinds, species, position, more=False)


# A bracket stops at the next one of its kind, so that a comment full of open brackets costs linear time. ASE writes an
# empty text as nothing (`note= energy=-1.5`), and other programs write `energy= -1.5`.
_PAIR = re.compile(
    r"""(?:"((?:[^"\\]|\\.)+)"|([^\s="]+))   # the key, quoted or bare
    (?:[ ]*=(?:
        [ ]*(?:"((?:[^"\\]|\\.)*)"        # quoted, with \" and \\ and \n
      | '([^']*)' | \{([^{}]*)\} | \[([^\[\]]*)\])(?=\s|$)
      | (?:[ ]+(?=[^\s="]+(?:\s|$)))?(\S*)  # bare
    ))?(?=\s|$)""",
    re.VERBOSE,
)
_WORD = re.compile(r"\S+")
_ESCAPED = re.compile(r"\\(.)")


def _pairs(text: str) -> dict[str, object]:
    """Return the pairs of a comment; a key alone is true, and words that are no pairs are kept as `comment`."""
    found: dict[str, object] = {}
    rest: list[str] = []
    at = 0
    for _ in range(MAX_PAIRS):
        word = _WORD.search(text, at)
        if word is None:
            break
        if match := _PAIR.match(text, word.start()):
            key, value = _key_value(match)
            found[key] = value
        else:
            rest.append(word[0])
        at = (match or word).end()
    if kept := " ".join([*rest, text[at:].strip()]).strip():
        found.setdefault("comment", kept)
    return found


def _key_value(match: re.Match[str]) -> tuple[str, object]:
    quoted_key, key, quoted, *others, bare = match.groups()
    key = key or _unescaped(quoted_key)
    held = next((value for value in others if value is not None), None)
    if quoted is not None:
        return key, _unescaped(quoted)
    if held is not None:
        return key, held
    return key, True if bare is None else _value(bare)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), text)


def _value(bare: str) -> object:
    if re.fullmatch(r"[+-]?\d{1,18}", bare, re.ASCII):
        return int(bare)
    if bare in LOGICAL:
        return bare[0] in "Tt"
    try:
        return number(Token(bare, 1, 1))
    except StructureError:
        return bare


def _written(key: str, value: object) -> str:
    key = f"{key}_" if key == "Properties" else key  # the word belongs to the layout of the columns
    if not re.fullmatch(r"[A-Za-z_][\w.\-]*", key, re.ASCII):
        key = _quoted(key or "_")
    if isinstance(value, bool):
        return f"{key}={'T' if value else 'F'}"
    if isinstance(value, int | float):
        return f"{key}={value!r}"
    return f"{key}={_quoted(value if isinstance(value, str) else json.dumps(value))}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{printable(escaped)}"'
