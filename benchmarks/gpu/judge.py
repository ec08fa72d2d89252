"""The evaluation of what the GPU command brought: weights with a card, and the metrics of the samples.

    python -m benchmarks.gpu.judge OUT [--run DIR]

OUT is the folder of the command. The annealed state becomes OUT/weights, the state before it OUT/run with its
configuration, and the samples become the records of `enflow evaluate`, whose metrics go to OUT/weights as well; its
`--molecules` adds likelihoods later. This needs RDKit and no GPU.
"""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np

from benchmarks.gpu.bare import ROOT
from benchmarks.gpu.parts import read_parts
from benchmarks.gpu.training import ANNEALED, SAMPLES, STATE, load_state
from enflow.model.card import read_card
from enflow.model.checkpoint import load
from enflow.model.config import TOLERANCES
from enflow.model.flow.ode.solver_state import Status
from enflow.model.progress import progress
from enflow.model.training.config import read_config
from enflow.model.training.data.qm9 import data_file, load_qm9
from enflow.model.training.evaluation.evaluate import EvaluationConfig, evaluate
from enflow.model.training.evaluation.publish import publish, publish_card
from enflow.model.training.evaluation.records import RecordFile, SampleRecord
from enflow.model.training.evaluation.summary import table
from enflow.model.training.export import export
from enflow.model.training.trainer import Trainer


def weights_of(out: Path, run: Path) -> Path:
    """Write the annealed weights with their card, and the state from which a run goes on; return the weights."""
    config = read_config(run / "config.json")
    trainer = Trainer(config)
    load_state(trainer, out, ANNEALED)
    export(trainer, config, load_qm9(data_file(), "train", config.flow.vocabulary), out / "weights")
    (out / "run").mkdir(exist_ok=True)
    shutil.copy(run / "config.json", out / "run" / "config.json")
    (out / "run" / "state.pt").write_bytes(read_parts(out, STATE))
    return out / "weights"


def record(samples: Path, folder: Path, weights_sha256: str) -> int:
    """Write samples as records of an evaluation of these weights, and return their number."""
    header = {"weights_sha256": weights_sha256, "seed": 0, "tolerance": TOLERANCES["standard"]}
    with np.load(samples, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    ends = np.cumsum(found["n_found"].astype(np.int64))
    records = RecordFile(folder / "samples.jsonl", header, SampleRecord)
    for index, end in enumerate(ends):
        atoms = slice(end - int(found["n_found"][index]), end)
        numbers, positions = (found[name][atoms].tolist() for name in ("atomic_numbers", "positions"))
        status = Status(int(found["status"][index])).name
        if index not in records.records:
            n_atoms, nfe = int(found["n_atoms"][index]), int(found["nfe"][index])
            records.append(SampleRecord(index, n_atoms, numbers, positions, nfe, status))
    return len(ends)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--run", type=Path, default=ROOT / "weights" / "qm9" / "run-wide")
    wanted = parser.parse_args()
    weights = weights_of(wanted.out, wanted.run)
    card, folder = read_card(weights), wanted.out / "evaluation"
    folder.mkdir(exist_ok=True)
    count = record(wanted.out / SAMPLES, folder, card.weights_sha256)
    settings = EvaluationConfig(samples=count, molecules=0, refinements=0)  # as the command samples
    with progress() as shown:
        result = evaluate(load(weights), card.weights_sha256, data_file(), folder, settings, shown)
    publish(weights, card, shlex.join(["python", "-m", "benchmarks.gpu.judge", *sys.argv[1:]]), result, [])
    publish_card(weights, result)
    print(table(result.metrics))


if __name__ == "__main__":
    main()
