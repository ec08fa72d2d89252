"""Options and functions that several commands share."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer

from enflow.model.config import MAX_REFINEMENTS
from enflow.model.errors import ConfigError, DataError
from enflow.model.files import shown_name

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, one object in one line.")]

JsonLines = Annotated[bool, typer.Option("--json", help="Print the results as JSON, one object per line.")]

Divergence = Literal["hutchinson", "exact"]

Device = Annotated[str, typer.Option(help="auto (the GPU if there is one), cpu or cuda.")]


Refinements = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=MAX_REFINEMENTS,
        help="Times that a molecule is noised and generated again; 0 = the flow alone [default: that of the card].",
    ),
]


def print_result(text: str, result: object, *, as_json: bool) -> None:
    """Print a result: `text`, or with `as_json` one line of JSON."""
    typer.echo(json.dumps(result, allow_nan=False) if as_json else shown_name(text))


def read_standard_input() -> bytes:
    """Return what standard input holds.

    Raises:
        DataError: it is closed.
    """
    if sys.stdin is None:  # so Python shows a closed descriptor 0
        raise DataError("standard input is closed, expected a file or a pipe behind it")
    return sys.stdin.buffer.read()


@contextmanager
def says_what_is_kept(text: str) -> Iterator[None]:
    """Print where the results are if Ctrl-C ends the work."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"enflow: {shown_name(text)}", err=True)
        raise


def pick_device(name: str) -> str:
    """Return the device of an option: "auto" chooses the GPU if there is one.

    Raises:
        ConfigError: there is no such device, or no GPU for "cuda".
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"found device {name!r}; expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("found no GPU that PyTorch can use; expected one for --device cuda")
    return name
