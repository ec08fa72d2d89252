"""Options and helpers that several commands share."""

import json
from typing import Annotated, Literal

import typer

from enflow.model.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, one object per line.")]


Divergence = Literal["hutchinson", "exact"]


Device = Annotated[str, typer.Option(help="auto (the GPU if there is one), cpu or cuda.")]


def tell(text: str, facts: object, *, as_json: bool) -> None:
    """Print an answer: text for people, or one line of JSON for machines."""
    typer.echo(json.dumps(facts, allow_nan=False) if as_json else text)


def pick_device(name: str) -> str:
    """The device that a name means.

    Raises:
        ConfigError: no such device, or no GPU for "cuda".
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"found device {name!r}; expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("found no GPU that PyTorch can use; expected one for --device cuda")
    return name
