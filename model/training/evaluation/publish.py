"""An evaluation put where people find it: evaluation.json and its page, the card, the percentiles."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from enflow.model.card import Card, read_card, write_card
from enflow.model.training.evaluation.evaluate import Findings
from enflow.model.training.evaluation.html_report import page
from enflow.model.training.evaluation.journal import record
from enflow.model.training.evaluation.metrics import percentiles
from enflow.model.training.git_commit import git_commit


def publish(folder: Path, card: Card, command: str, found: Findings, points: list[dict[str, Any]]) -> None:
    """Enter findings and the points of a curve into evaluation.json of a folder, and draw its page anew.

    What another command found of the same weights stays beside it; `made` says which command and commit made what.
    """
    made = {"command": command, "git_commit": git_commit(), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    parts = {"samples": "samples" in found.metrics, "likelihood": bool(found.scored), "curve": bool(points)}
    sections: dict[str, dict[str, Any]] = {
        "made": {part: made for part, present in parts.items() if present},
        "metrics": found.metrics,
        "plots": found.drawn,
        "curve": {"points": points} if points else {},
    }
    whole = record(folder / "evaluation.json", card.weights_sha256, sections)
    (folder / "evaluation.html").write_text(page(card.name, whole), encoding="utf-8")


def publish_card(weights: Path, found: Findings) -> None:
    """Put the metrics into the card of the weights, and the scores of test molecules into percentiles.json."""
    card = read_card(weights)  # anew: another command may have written its half by now
    write_card(weights, replace(card, metrics=card.metrics | found.metrics))
    if found.scored:
        table = json.dumps(percentiles(found.scored, card.weights_sha256, found.noise), allow_nan=False)
        (weights / "percentiles.json").write_text(table + "\n")
