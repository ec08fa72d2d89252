"""Options and functions that several commands share."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer

from enflow.model.config import MAX_REFINEMENTS
from enflow.model.errors import ConfigError

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
    typer.echo(json.dumps(result, allow_nan=False) if as_json else text)


@contextmanager
def says_what_is_kept(text: str) -> Iterator[None]:
    """Print where the results are if Ctrl-C ends the work."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"enflow: {text}", err=True)
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
