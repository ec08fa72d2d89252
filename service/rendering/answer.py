"""A complete answer: its document and its rendered molecules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from enflow.service.rendering.molecules import RenderedMolecule


@dataclass(frozen=True)
class Answer:
    """A whole answer: its JSON document, and its molecules for the formats that are files of molecules."""

    document: Mapping[str, Any]
    portraits: Sequence[RenderedMolecule]
