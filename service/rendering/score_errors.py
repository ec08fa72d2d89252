"""Structures that could not be scored, as response documents."""

from typing import Any

from enflow.model.chem.molecule import Molecule
from enflow.model.errors import EnflowError, VocabularyError
from enflow.service.problems import Problem
from enflow.service.schemas.responses import ProblemOut, ScoreErrorOut


def score_error(
    index: int, problem: Problem, structure: Molecule | EnflowError, request_id: str, file: str | None = None
) -> ScoreErrorOut:
    """Return the entry of a structure that could not be scored.

    Args:
        index: the place of the structure, from 0.
        problem: the reason.
        structure: the structure, or the error that it had before; it has a name where its record could be read.
        request_id: the request or the job.
        file: the name of its file; None where none is known.
    """
    known: dict[str, Any] = {"file": file} if file else {}
    if isinstance(structure, Molecule | VocabularyError):
        known["name"] = structure.name
    return ScoreErrorOut(index=index, error=ProblemOut(**problem.document(request_id)), **known)
