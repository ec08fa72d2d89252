"""Errors say where, and keep that when a worker process sends them."""

import pickle

import pytest

from enflow.model.errors import StructureError


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ({}, "no atoms"),
        ({"line": 3}, "line 3: no atoms"),
        ({"index": 0, "line": 3, "column": 7}, "structure 1, line 3, column 7: no atoms"),
    ],
)
def test_a_structure_error_says_where(place: dict[str, int], text: str) -> None:
    assert str(StructureError("no atoms", **place)) == text


def test_a_structure_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(StructureError("no atoms", line=3, column=7, index=1)))
    assert (error.message, error.line, error.column, error.index) == ("no atoms", 3, 7, 1)
