"""Export of a training state as weights with a card."""

from datetime import UTC, datetime
from pathlib import Path

from enflow.model.card import Card, Dataset
from enflow.model.checkpoint import save
from enflow.model.flow.dequantization import Given
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.config import TrainConfig
from enflow.model.training.data.qm9 import MoleculeDataset, data_file, load_qm9
from enflow.model.training.git_commit import git_commit
from enflow.model.training.objectives import atom_count_prior, type_counts
from enflow.model.training.trainer import Trainer

LICENCE = "MIT"
SPLIT = "train 100,000, valid 17,748, test 13,083 of EGNN, E-NF and EDM, as far as the file at hand holds them"


def flow_of(trainer: Trainer, data: MoleculeDataset) -> MoleculeFlow:
    """Return the flow with the averaged parameters, and with the statistics of the training molecules.

    Args:
        trainer: a trainer of molecules.
        data: the training molecules, in which p(N) and, if types are given, the compositions are counted.
    """
    flow: MoleculeFlow = trainer.objective.flow(trainer.averaged_network())
    flow.n_atoms = atom_count_prior(flow.config, data)
    if isinstance(flow.dequantizer, Given):
        flow.dequantizer.compositions.fit(type_counts(flow.config, data))
    return flow.eval()


def export(trainer: Trainer, config: TrainConfig, data: MoleculeDataset, directory: Path) -> Card:
    """Write weights and card; `enflow evaluate` adds the metrics later.

    Args:
        trainer: the trained state.
        config: configuration of the run.
        data: the training molecules.
        directory: folder for the files.
    """
    card = Card(
        name=config.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=git_commit(),
        config=config.flow,
        dataset=Dataset("QM9", data.sha256, SPLIT),
        seed=config.seed,
        licence=LICENCE,
        metrics={"training_passes": trainer.passes},
    )
    return save(flow_of(trainer, data), directory, card)


def export_state(config: TrainConfig, state: Path, directory: Path) -> Card:
    """Write weights and card of a training state.

    Args:
        config: configuration of the run.
        state: a file that `Trainer.save` wrote.
        directory: folder for the files.

    Raises:
        DataError: the state or the data cannot be read.
    """
    trainer = Trainer(config)
    trainer.load(state)
    return export(trainer, config, load_qm9(data_file(), "train", config.flow.vocabulary), directory)
