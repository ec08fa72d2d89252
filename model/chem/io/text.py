"""The text of structure files: limits, decoding, lines, tokens and numbers with their places."""

import codecs
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from gzip import GzipFile
from io import BytesIO

from enflow.model.chem.elements import ATOMIC_NUMBERS, SYMBOLS
from enflow.model.chem.molecule import FARTHEST_COORDINATE
from enflow.model.errors import StructureError

MAX_LINE = 20_000
"""Longest line in characters that is split into tokens; a million tokens in one line would take a gigabyte."""


GZIP = b"\x1f\x8b"
"""The first bytes of a gzip file."""


_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class ReadLimits:
    """The limits of a file, checked before anything of that size is made.

    Attributes:
        max_bytes: size of the file, after decompression too.
        max_records: structures in the file.
        max_atoms: atoms of a structure.
        max_embedded_atoms: atoms, with hydrogens, of a SMILES whose geometry is generated: seconds for a hundred.
        open_bonds: the bonds may ask for hydrogens that the file does not hold, as those of a fragment do.
    """

    max_bytes: int = 16_000_000
    max_records: int = 10_000
    max_atoms: int = 1_000
    max_embedded_atoms: int = 100
    open_bonds: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A word of a line and its place; lines and columns count from 1."""

    text: str
    line: int
    column: int

    def error(self, expected: str) -> StructureError:
        """Return an error that says where this word was found and what was expected."""
        return StructureError(f"found {shown(self.text)}, expected {expected}", line=self.line, column=self.column)


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end, and its number from 1."""

    text: str
    number: int

    def checked(self) -> str:
        """Return the text.

        Raises:
            StructureError: the line is longer than `MAX_LINE`.
        """
        if len(self.text) > MAX_LINE:
            raise self.error(f"found a line of {len(self.text)} characters, expected at most {MAX_LINE}")
        return self.text

    def tokens(self) -> list[Token]:
        """Split the line into words at blanks and tabs; other white space does not separate.

        Raises:
            StructureError: the line is too long.
        """
        return [Token(m[0], self.number, m.start() + 1) for m in _WORD.finditer(self.checked())]

    def field(self, start: int, stop: int) -> Token:
        """Return the word in a fixed range of columns, counted from 0, without the blanks around it."""
        text = self.text[start:stop]
        return Token(text.strip(" \t"), self.number, start + len(text) - len(text.lstrip(" \t")) + 1)

    def error(self, message: str) -> StructureError:
        """Return an error about the whole line."""
        return StructureError(message, line=self.number)


class Lines:
    """The lines of a text one after another, with a look at the next one; ends by LF, CRLF or CR."""

    def __init__(self, text: str) -> None:
        self._source = (Line(m[1] or "", number) for number, m in enumerate(_LINE.finditer(text), start=1))
        self.next: Line | None = next(self._source, None)

    def take(self) -> Line | None:
        """Return the next line, or None at the end of the text."""
        taken, self.next = self.next, next(self._source, None)
        return taken

    def __iter__(self) -> Iterator[Line]:
        while line := self.take():
            yield line


_LINE = re.compile(r"([^\r\n]+)(?:\r\n|\r|\n)?|\r\n|\r|\n")
_WORD = re.compile(r"[^ \t]+")
# No part can match in two ways, so that a long token costs linear time. Fortran writes D, Mathematica (raw QM9) `*^`.
_NUMBER = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:(?:[eEdD]|\*\^)([+-]?\d{1,4}))?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,9}", re.ASCII)
_HYDROGENS = {"D": 1, "T": 1}
_SHOWN = 16


def shown(text: str) -> str:
    """Return a short quotation in printable ASCII, so that a message never repeats an upload."""
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…").replace("\\u2026", "…")


def printable(text: str) -> str:
    """Return a line of text with `?` for control characters, which could command the terminal that shows a file."""
    return _CONTROL.sub("?", text)


def decode(data: str | bytes, limits: ReadLimits) -> str:
    """Return the text of a file without its byte order mark; gzip and UTF-16 are recognised.

    A control character 0x1A (Ctrl-Z) at the end is removed: programs for DOS end a text with it, and Open Babel and
    RDKit read such files.

    Raises:
        StructureError: the file has too many bytes, is damaged, or holds nothing but white space.
    """
    size = len(data)  # a character of a str is at least a byte
    if size > limits.max_bytes:
        raise StructureError(f"found {size} bytes, expected at most {limits.max_bytes}")
    text = data if isinstance(data, str) else _decode_bytes(_decompressed(data, limits.max_bytes))
    text = text.removeprefix("\ufeff").rstrip("\x1a")
    if not text.strip():
        raise StructureError("found an empty file, expected at least one structure")
    return text


def decode_head(data: str | bytes, size: int = 4096) -> str:
    """Return the beginning of a text of which the rest is not looked at."""
    if isinstance(data, str):
        return data[:size].removeprefix("\ufeff")
    if data.startswith(GZIP):
        try:
            data = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data, size)
        except zlib.error:
            return ""
    return _decode_bytes(data[:size]).removeprefix("\ufeff")


def number(token: Token) -> float:
    """Return a decimal number in the notation of many languages: 1.5, -.5, 1e-3, 1D-3, 1*^-3.

    Raises:
        StructureError: the word is no finite number, or has a decimal comma.
    """
    match = _NUMBER.fullmatch(token.text) if len(token.text) <= 64 else None
    if not match:
        hint = " with a decimal point" if "," in token.text else ""
        raise token.error(f"a finite number{hint}")
    return float(f"{match[1]}e{match[2] or 0}")


def coordinate(token: Token) -> float:
    """Return a number that can be a coordinate in angstrom.

    Raises:
        StructureError: the word is no number, or the number is too large.
    """
    value = number(token)
    if not math.fabs(value) <= FARTHEST_COORDINATE:
        raise token.error(f"a finite number within {FARTHEST_COORDINATE:g} angstrom")
    return value


def integer(token: Token, expected: str = "an integer") -> int:
    """Return a decimal integer of at most nine digits.

    Raises:
        StructureError: the word is no such integer.
    """
    if not _INTEGER.fullmatch(token.text):
        raise token.error(expected)
    return int(token.text)


_DUMMY = re.compile(r"\*|R[0-9]*#?|Du", re.IGNORECASE | re.ASCII)
"""Symbols that stand for no element: attachment points and R groups."""


def atomic_number(token: Token) -> int:
    """Return the atomic number of a symbol in upper or lower case; D and T are hydrogen.

    Raises:
        StructureError: no element has that symbol.
    """
    symbol = token.text[:4].capitalize()
    if _DUMMY.fullmatch(token.text):
        raise token.error("an element; write H in the place of a dummy atom, and name it in attach to grow there")
    if not token.text.isascii() or symbol.lower() != token.text.lower():
        raise token.error("an element")
    if symbol in _HYDROGENS:
        return _HYDROGENS[symbol]
    if symbol not in ATOMIC_NUMBERS:
        raise token.error("an element")
    return ATOMIC_NUMBERS[symbol]


def atom_count(token: Token, limits: ReadLimits) -> int:
    """Return the number of atoms that a record announces.

    Raises:
        StructureError: the word is not a number from 1 to the limit.
    """
    count = integer(token, "a number of atoms")
    if not 1 <= count <= limits.max_atoms:
        raise token.error(f"a number of atoms from 1 to {limits.max_atoms}")
    return count


def element(token: Token) -> int:
    """Return the atomic number of an element that is given by its symbol or its atomic number.

    Raises:
        StructureError: there is no such element.
    """
    if not token.text.isascii() or not token.text.isdigit():
        return atomic_number(token)
    z = integer(token)
    if not 1 <= z <= len(SYMBOLS):
        raise token.error(f"an element symbol or an atomic number from 1 to {len(SYMBOLS)}")
    return z


def _decompressed(data: bytes, most: int) -> bytes:
    """Return the content of a gzip file, or the data as they are; never more than `most` bytes are made."""
    if not data.startswith(GZIP):
        return data
    try:
        content = GzipFile(fileobj=BytesIO(data)).read(most + 1)
    except (OSError, EOFError, zlib.error):
        raise StructureError("found damaged gzip data, expected a complete gzip file") from None
    if len(content) > most:
        raise StructureError(f"found more than {most} bytes after decompression, expected at most {most}")
    return content


def _decode_bytes(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell's `>` writes
        return data.decode("utf-16", errors="replace")
    # UTF-16 without a mark: every second byte of ASCII is zero.
    if len(data) > 3 and not any(data[1:16:2]) and any(data[0:16:2]):
        return data.decode("utf-16-le", errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        # A comment may hold Å in any code page; elements and numbers are ASCII and checked as such.
        return data.decode("latin-1")
