"""Files in parts below 16 MB: `state.1of2`, `state.2of2`; each begins with the hash of the whole."""

import hashlib
import re
from pathlib import Path

PART_BYTES = 15_900_000


def write_parts(folder: Path, name: str, content: bytes) -> None:
    """Write the content in parts; the parts of an earlier write are replaced one directly after the other."""
    digest = hashlib.sha256(content).digest()
    pieces = [content[start : start + PART_BYTES] for start in range(0, len(content), PART_BYTES)]
    names = [folder / f"{name}.{number}of{len(pieces)}" for number in range(1, len(pieces) + 1)]
    for path, piece in zip(names, pieces, strict=True):
        path.with_name(f".{path.name}").write_bytes(digest + piece)
    for path in names:
        path.with_name(f".{path.name}").replace(path)
    for path in set(_parts(folder, name)) - set(names):
        path.unlink()


def has_parts(folder: Path, name: str) -> bool:
    """Return True if the folder has a part of the file."""
    return bool(_parts(folder, name))


def read_parts(folder: Path, name: str) -> bytes:
    """Return the content that `write_parts` wrote.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: the parts do not belong together, or one is damaged.
    """
    paths = _parts(folder, name)
    expected = int(paths[0].name.rpartition("of")[2]) if paths else 1
    if len(paths) != expected:
        raise FileNotFoundError(f"found {len(paths)} parts of {folder / name}, expected {expected}")
    contents = [path.read_bytes() for path in paths]
    whole = b"".join(content[32:] for content in contents)
    if {content[:32] for content in contents} != {hashlib.sha256(whole).digest()}:
        raise ValueError(f"the parts of {folder / name} are not those of one file")
    return whole


def _parts(folder: Path, name: str) -> list[Path]:
    pattern = re.compile(re.escape(name) + r"\.(\d+)of\d+")
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found)]
