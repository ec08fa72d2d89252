"""How good molecules are after how many molecule passes: states of a training run, sampled with their averaged weights.

    python -m benchmarks.learning [--samples N] STATE ...

STATE is a `state.pt` (constant rate) or `annealed.pt` of `enflow train model/training/configs/qm9.json`. Points that
stand in results/learning.json are kept; the curve is drawn to docs/images/learning.svg. Tolerance 1e-3, seed 0.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import RESULTS, tell
from benchmarks.trial_variants import CONFIG
from model.config import TOLERANCES
from model.terminal import progress
from model.training.charts import Point, Series, chart, standalone
from model.training.curve import curve
from model.training.data import Molecules, data_file, load_qm9
from model.training.export import flow_of
from model.training.train import Trainer, read_config

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "learning.svg"


def point(state: Path, samples: int, data: Molecules) -> dict[str, Any]:
    """What a state's molecules are like."""
    trainer = Trainer(read_config(CONFIG))
    trainer.load(state)
    flow, standard = flow_of(trainer, data), {"standard": TOLERANCES["standard"]}
    with tempfile.TemporaryDirectory() as folder, progress() as report:
        (found,) = curve(flow, "", Path(folder), samples, 0, report, (), standard)
    kept = ("samples", "nfe_mean", "atom_stability", "molecule_stability", "validity")
    return {"passes": trainer.passes, "annealed": trainer.anneal is not None} | {key: found[key] for key in kept}


def figure(points: list[dict[str, Any]]) -> str:
    """Molecule stability and validity over passes, at the constant rate and where it was brought to zero."""
    series = []
    for key, word in (("molecule_stability", "stable"), ("validity", "valid")):
        for annealed, how in ((False, ""), (True, ", rate brought to zero")):
            found: list[Point] = [(p["passes"] / 1e6, 100 * p[key]) for p in points if p["annealed"] == annealed]
            if found:
                series.append(Series(f"{word}{how}", found, "dots" if annealed else "line"))
    return standalone(chart("Quality over training", "million molecule passes", "% of molecules", series))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("states", nargs="*", type=Path, metavar="STATE")
    parser.add_argument("--samples", type=int, default=500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "learning.json"
    points = json.loads(path.read_text())["points"] if path.exists() else []
    data = load_qm9(data_file(), "train")
    for state in arguments.states:
        new = point(state, arguments.samples, data)
        same = [p for p in points if (p["passes"], p["annealed"]) == (new["passes"], new["annealed"])]
        points = sorted([p for p in points if p not in same] + [new], key=lambda p: p["passes"])
    PICTURE.write_text(figure(points))
    columns = ["passes", "rate", "samples", "atoms stable", "molecules stable", "valid", "evaluations"]
    rows = [
        [
            f"{p['passes']:,}",
            "brought to zero" if p["annealed"] else "constant",
            str(p["samples"]),
            *(f"{100 * p[key]:.1f}" for key in ("atom_stability", "molecule_stability", "validity")),
            f"{p['nfe_mean']:.1f}",
        ]
        for p in points
    ]
    tell("learning", "Quality over training", columns, rows, {"points": points})


if __name__ == "__main__":
    main()
