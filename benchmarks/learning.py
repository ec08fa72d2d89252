"""The learning curve: quality of samples over the number of molecules shown in training.

    python -m benchmarks.learning [--samples N] STATE ...

STATE is a `state.pt` (constant rate) or `annealed.pt` of `enflow train model/training/configs/qm9.json`; its averaged
weights generate the samples, with tolerance 1e-3 and seed 0. The points of results/learning.json are kept. The chart
goes to docs/images/learning.svg; without a STATE only the chart is drawn again.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import RESULTS, write_results
from benchmarks.trial_variants import CONFIG
from enflow.model.config import TOLERANCES
from enflow.model.progress import progress
from enflow.model.training.config import read_config
from enflow.model.training.data.qm9 import MoleculeDataset, data_file, load_qm9
from enflow.model.training.evaluation.solver_curve import CurveConfig, curve
from enflow.model.training.export import flow_of
from enflow.model.training.svg_charts import Point, Series, svg
from enflow.model.training.trainer import Trainer

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "learning.svg"


def point(state: Path, samples: int, data: MoleculeDataset) -> dict[str, Any]:
    """Return the quality of the samples of a training state."""
    trainer = Trainer(read_config(CONFIG))
    trainer.load(state)
    flow, standard = flow_of(trainer, data), {"standard": TOLERANCES["standard"]}
    with tempfile.TemporaryDirectory() as folder, progress() as report:
        (found,) = curve(flow, "", Path(folder), CurveConfig(samples, steps=(), tolerances=standard), report)
    kept = ("samples", "nfe_mean", "atom_stability", "molecule_stability", "validity")
    return {"passes": trainer.passes, "annealed": trainer.anneal is not None} | {key: found[key] for key in kept}


def figure(points: list[dict[str, Any]]) -> str:
    """Draw molecule stability and validity over passes, at constant rate and after annealing."""
    series = []
    for key, word in (("molecule_stability", "stable"), ("validity", "valid")):
        for annealed, how in ((False, ""), (True, ", annealed")):
            found: list[Point] = [(p["passes"] / 1e6, 100 * p[key]) for p in points if p["annealed"] == annealed]
            if found:
                series.append(Series(f"{word}{how}", found, "dots" if annealed else "line"))
    return svg("Quality over training", "million molecule passes", "% of molecules", series)


def measure(states: list[Path], samples: int, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the known points and those of the states, by passes."""
    points, data = known, load_qm9(data_file(), "train")
    for state in states:
        new = point(state, samples, data)
        same = [p for p in points if (p["passes"], p["annealed"]) == (new["passes"], new["annealed"])]
        points = sorted([p for p in points if p not in same] + [new], key=lambda p: p["passes"])
    return points


def write_table(points: list[dict[str, Any]]) -> None:
    columns = ["passes", "rate", "samples", "atoms stable", "molecules stable", "valid", "evaluations"]
    rows = [
        [
            f"{p['passes']:,}",
            "annealed" if p["annealed"] else "constant",
            str(p["samples"]),
            *(f"{100 * p[key]:.1f}" for key in ("atom_stability", "molecule_stability", "validity")),
            f"{p['nfe_mean']:.1f}",
        ]
        for p in points
    ]
    write_results("learning", "Quality over training", columns, rows, {"points": points})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("states", nargs="*", type=Path, metavar="STATE")
    parser.add_argument("--samples", type=int, default=500, help="samples per state (default: 500)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "learning.json"
    points = json.loads(path.read_text())["points"] if path.exists() else []
    if arguments.states:
        points = measure(arguments.states, arguments.samples, points)
        write_table(points)
    PICTURE.write_text(figure(points))


if __name__ == "__main__":
    main()
