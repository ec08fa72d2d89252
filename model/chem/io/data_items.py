"""Data items of SDF: lines `>  <name>` with a value of one or more lines below."""

import re
from collections.abc import Mapping, Sequence

from enflow.model.chem.io.text import Line, printable, shown


def read_items(lines: Sequence[Line]) -> dict[str, object]:
    """Return the data items after a molfile; a value ends where a blank line stands before the next item.

    Raises:
        StructureError: text stands before the first item, such as a second molfile without `$$$$` between the two; or
            an item stands twice.
    """
    items: dict[str, list[str]] = {}
    value: list[str] | None = None
    for line in lines:
        if line.text.startswith(">") and (value is None or (value and not value[-1].strip())):
            if (name := _name(line.text)) in items:
                raise line.error(f"found a data item {shown(name)} twice in a record, expected it once")
            value = items[name] = []
        elif value is not None:
            value.append(line.text)
        elif line.text.strip():
            raise line.error("found text after 'M  END', expected data items or a line '$$$$' before the next molfile")
    return {name: "\n".join(text).rstrip() for name, text in items.items()}


def write_items(items: Mapping[str, object]) -> str:
    """Return the items as lines of SDF; an item without a value is left out."""
    return "".join(
        f">  <{one_line(name).translate(_NO_BRACKETS)}>\n{_lines(value)}\n\n"
        for name, value in items.items()
        if value is not None
    )


def one_line(value: object) -> str:
    """Return a value as a single line that can neither end a record nor begin an item."""
    return _guarded(" ".join(str(value).split()))


_NO_BRACKETS = str.maketrans("<>", "()")


def _name(header: str) -> str:
    named = re.match(r">[^<]*<([^>]+)>", header)
    return named[1] if named else header.strip("> \t")


def _lines(value: object) -> str:
    return "\n".join(_guarded(line) for line in re.split(r"\r\n|\r|\n", str(value)))


def _guarded(line: str) -> str:
    """Return the printable line with a blank before it where it is empty, or would end the record or begin an item."""
    line = printable(line)
    return f" {line}" if not line or line.startswith(("$$$$", ">")) else line
