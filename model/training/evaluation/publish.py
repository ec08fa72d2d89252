"""The publication of an evaluation: evaluation.json with its page, the card, and percentiles.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from enflow.model.card import Card, read_card, write_card
from enflow.model.files import replace_file
from enflow.model.training.evaluation.evaluate import EvaluationResult
from enflow.model.training.evaluation.html_report import page
from enflow.model.training.evaluation.metrics import percentiles
from enflow.model.training.evaluation.records import update_report
from enflow.model.training.git_commit import git_commit


def publish(folder: Path, card: Card, command: str, result: EvaluationResult, curve: list[dict[str, Any]]) -> None:
    """Write results into evaluation.json of a folder, and its page anew.

    The results of other commands for the same weights stay. The section `made` records the command and the commit of
    every part.

    Args:
        folder: folder of evaluation.json.
        card: card of the weights.
        command: the command line.
        result: the result of the evaluation.
        curve: points of quality against cost (see `solver_curve`).
    """
    parts = {"samples": "samples" in result.metrics, "likelihood": bool(result.scores), "curve": bool(curve)}
    sections = {"metrics": result.metrics, "plots": result.plots, "curve": {"points": curve} if curve else {}}
    _publish(folder, card, command, [part for part, present in parts.items() if present], sections)


def publish_own_nll(folder: Path, card: Card, command: str, own_nll: Mapping[str, list[float]]) -> None:
    """Write the NLL of test molecules and of samples, by kind, into evaluation.json of a folder, and its page anew."""
    _publish(folder, card, command, ["NLL of samples"], {"own_nll": own_nll})


def _publish(
    folder: Path, card: Card, command: str, parts: Sequence[str], sections: Mapping[str, Mapping[str, Any]]
) -> None:
    made = {"command": command, "git_commit": git_commit(), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    made_parts = {"made": dict.fromkeys(parts, made)}
    report = update_report(folder / "evaluation.json", card.weights_sha256, made_parts | dict(sections), ["own_nll"])
    replace_file(folder / "evaluation.html", page(card.name, report).encode())


def publish_card(weights: Path, result: EvaluationResult) -> None:
    """Write the metrics into the card of the weights, and the scores of test molecules into percentiles.json."""
    card = read_card(weights)  # read again: another command may have written its part meanwhile
    write_card(weights, replace(card, metrics=card.metrics | result.metrics))
    if result.scores:
        table = json.dumps(percentiles(result.scores, card.weights_sha256, result.noise), allow_nan=False)
        replace_file(weights / "percentiles.json", (table + "\n").encode())
