"""From a training state to weights on disk."""

from datetime import UTC, datetime
from pathlib import Path

from enflow.model.card import Card, Dataset
from enflow.model.checkpoint import save
from enflow.model.flow.dequantization import Given
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.config import TrainConfig
from enflow.model.training.data.qm9 import MoleculeDataset, data_file, load_qm9
from enflow.model.training.objectives import compositions, sizes
from enflow.model.training.provenance import commit
from enflow.model.training.trainer import Trainer

LICENCE = "MIT"
SPLIT = "train 100,000, valid 17,748, test 13,083 of EGNN, E-NF and EDM, as far as the file at hand holds them"


def flow_of(trainer: Trainer, data: MoleculeDataset) -> MoleculeFlow:
    """The flow with the averaged parameters, and with p(N) and what else is counted in the training molecules."""
    flow = trainer.objective.flow(trainer.averaged_network())
    flow.n_atoms = sizes(trainer.config.flow, data)
    if isinstance(flow.dequantizer, Given):
        flow.dequantizer.compositions.count(compositions(trainer.config.flow, data))
    return flow.eval()


def export(trainer: Trainer, data: MoleculeDataset, directory: Path) -> Card:
    """Write weights and card; metrics are left to `enflow evaluate`."""
    config = trainer.config
    card = Card(
        name=config.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=commit(),
        config=config.flow,
        dataset=Dataset("QM9", data.sha256, SPLIT),
        seed=config.seed,
        licence=LICENCE,
        metrics={"training_passes": trainer.passes},
    )
    return save(flow_of(trainer, data), directory, card)


def export_state(config: TrainConfig, state: Path, directory: Path) -> Card:
    """Write weights and card of a training state.

    Raises:
        DataError: the state or the data cannot be read.
    """
    trainer = Trainer(config)
    trainer.load(state)
    return export(trainer, load_qm9(data_file(), "train", config.flow.vocabulary), directory)
