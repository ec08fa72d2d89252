"""The evaluation of a flow of molecules: samples are generated, test molecules are scored; a second call resumes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from enflow.model.chem.analysis.metrics import table_smiles
from enflow.model.chem.analysis.plausibility import check_installed
from enflow.model.chem.molecule import Molecule
from enflow.model.config import STANDARD
from enflow.model.errors import DataError
from enflow.model.files import replace_file
from enflow.model.flow.estimate import Likelihood
from enflow.model.flow.estimator_options import EstimatorOptions
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.solver_state import Status
from enflow.model.flow.states import Sample
from enflow.model.progress import ProgressCallback
from enflow.model.training.data.qm9 import MoleculeDataset, load_qm9, molecules_of
from enflow.model.training.evaluation.metrics import (
    Composition,
    Reference,
    composition,
    likelihood_metrics,
    sample_metrics,
)
from enflow.model.training.evaluation.records import RecordFile, SampleRecord, ScoreRecord

FLUORINE = 9

REPEATED_MOLECULES, REPEATED_DRAWS = 48, 7
"""Numbers of test molecules and of draws of the repeated scores, which estimate the error of a single draw. The number
of draws is odd, since an even number comes in mirrored pairs, whose error is not that of single draws."""

REFERENCE_MOLECULES = 2000
"""Number of test molecules with which the samples are compared."""


@dataclass(frozen=True)
class EvaluationConfig:
    """The settings of an evaluation.

    Attributes:
        samples: number of molecules to generate, with sizes from p(N).
        molecules: number of test molecules to score.
        seed: seed of the samples, of the choice of test molecules, of the dequantization and of the probes.
        tolerance: rtol and atol of the solver.
        divergence: "exact", or "hutchinson", a much cheaper estimate whose noise averages out over many molecules.
        probes: number of probes of Hutchinson's estimate per molecule.
        draws: number of draws of the dequantizer per molecule; several draws with the exact divergence give the
            importance-weighted bound.
        posebusters: number of samples that PoseBusters checks, at most `samples`.
        temperature: standard deviation of the noise of the samples.
        refinements: refinements of each sample; None = as many as the model's configuration says.
    """

    samples: int = 1000
    molecules: int = 1000
    seed: int = 0
    tolerance: float = STANDARD
    divergence: Literal["exact", "hutchinson"] = "hutchinson"
    probes: int = 1
    draws: int = 1
    posebusters: int = 0
    temperature: float = 1.0
    refinements: int | None = None


@dataclass
class EvaluationResult:
    """The result of an evaluation.

    Attributes:
        metrics: metrics for the card.
        plots: data of the plots, by name.
        scores: scores behind the likelihood.
        noise: standard error of one score, nats, root mean square over molecules; 0 = the scores are exact.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    plots: dict[str, Any] = field(default_factory=dict)
    scores: list[ScoreRecord] = field(default_factory=list)
    noise: float = 0.0


def evaluate(
    flow: MoleculeFlow,
    weights_sha256: str,
    data: Path,
    folder: Path,
    config: EvaluationConfig,
    report: ProgressCallback,
) -> EvaluationResult:
    """Generate samples, score test molecules, and measure both.

    Args:
        flow: the model.
        weights_sha256: hash of its weights.
        data: the prepared qm9.npz.
        folder: folder of the records (see `RecordFile`). A second call computes only the molecules that are missing.
        config: settings.
        report: receives the progress.

    Raises:
        DataError: the data cannot be read, or have fewer test molecules than requested.
        SolverError: every sample failed.
        ConfigError: PoseBusters is asked for and not installed.
    """
    if config.posebusters:
        check_installed()
    test = load_qm9(data, "test", flow.config.vocabulary)
    rows = rows_to_score(len(test), config).tolist()
    header = {"weights_sha256": weights_sha256, "seed": config.seed, "tolerance": config.tolerance}
    refinements = flow.config.refinements if config.refinements is None else config.refinements
    sampling = {"temperature": config.temperature} if config.temperature != 1 else {}
    sampling |= {"refinements": refinements} if refinements else {}
    result = EvaluationResult({"tolerance": config.tolerance, "seed": config.seed, **sampling})
    if config.samples:
        records = RecordFile(folder / "samples.jsonl", header | sampling, SampleRecord)
        _generate(flow, config, records, report)
        train = load_qm9(data, "train", flow.config.vocabulary)
        training = training_smiles(train, flow, folder, report)
        picked = np.random.default_rng(0).permutation(len(test))[:REFERENCE_MOLECULES].tolist()
        known = compositions(train, flow.config.vocabulary)
        reference = Reference.of(training, molecules_of(test, flow.config.vocabulary, picked), known)
        generated = [records.records[index] for index in range(config.samples)]
        metrics, result.plots = sample_metrics(generated, reference, config.posebusters)
        result.metrics |= metrics
    if rows:
        likelihood = _measure_likelihood(flow, header, folder, config, test, rows, report)
        result.metrics |= likelihood.metrics
        result.plots |= likelihood.plots
        result.scores, result.noise = likelihood.scores, likelihood.noise
    return result


def _measure_likelihood(
    flow: MoleculeFlow,
    header: dict[str, Any],
    folder: Path,
    config: EvaluationConfig,
    test: MoleculeDataset,
    rows: list[int],
    report: ProgressCallback,
) -> EvaluationResult:
    estimate = {"divergence": config.divergence, "probes": config.probes}
    estimate |= {"draws": config.draws} if config.draws > 1 else {}
    header = header | {"data_sha256": test.sha256} | estimate
    records = RecordFile(folder / "scores.jsonl", header, ScoreRecord)
    molecules = dict(zip(rows, molecules_of(test, flow.config.vocabulary, rows), strict=True))
    record_scores(flow, config, records, molecules, report)
    noise = 0.0
    if config.divergence == "hutchinson":
        repeated = RecordFile(folder / "noise.jsonl", header | {"draws": REPEATED_DRAWS}, ScoreRecord)
        few = {row: molecules[row] for row in rows[:REPEATED_MOLECULES]}
        record_scores(flow, replace(config, draws=REPEATED_DRAWS), repeated, few, report)
        noise = _noise([repeated.records[row] for row in few], REPEATED_DRAWS / config.draws)
    scores = [records.records[row] for row in rows]
    metrics, plots = likelihood_metrics(scores)
    return EvaluationResult(metrics | estimate, plots, scores, noise)


def rows_to_score(n_test: int, config: EvaluationConfig) -> NDArray[np.int64]:
    """Return the rows of the test split to score: the first ones of one random order.

    Raises:
        DataError: the split has fewer molecules.
    """
    if config.molecules > n_test:
        raise DataError(f"the test split has {n_test} molecules; found a request for {config.molecules}")
    return np.random.default_rng(config.seed).permutation(n_test)[: config.molecules]


def compositions(data: MoleculeDataset, vocabulary: Sequence[int]) -> set[Composition]:
    """Return the compositions that occur in a split."""
    numbers = np.split(np.array(vocabulary)[data.atom_types], data.offsets[1:-1])
    return {composition(of_molecule) for of_molecule in numbers}


def training_smiles(data: MoleculeDataset, flow: MoleculeFlow, folder: Path, report: ProgressCallback) -> set[str]:
    """Return the SMILES of the training molecules, which define novelty; a file in `folder` caches them."""
    cache = folder / f"smiles-{data.sha256[:16]}.txt"
    if not cache.exists():
        report("reading the training molecules", 0, len(data))
        found = sorted(table_smiles(molecules_of(data, flow.config.vocabulary)))
        replace_file(cache, "\n".join(found).encode())
        report("reading the training molecules", len(data), len(data))
    return set(cache.read_text().splitlines())


def record_samples(
    samples: Iterable[Sample],
    n_atoms: dict[int, int],
    records: RecordFile[SampleRecord],
    total: int,
    report: ProgressCallback,
) -> None:
    """Write samples to a file as they finish.

    Args:
        samples: the samples that the file lacks.
        n_atoms: their sizes, by index.
        records: the file.
        total: number of samples in the file at the end.
        report: receives the progress, under the name of the file.
    """
    before = total - len(n_atoms)
    report(records.name, before, total)
    for done, one in enumerate(samples, start=before + 1):
        numbers = one.molecule.atomic_numbers.tolist() if one.molecule else []
        positions = one.molecule.positions.round(6).tolist() if one.molecule else []
        records.append(SampleRecord(one.index, n_atoms[one.index], numbers, positions, one.nfe, one.status.name))
        report(records.name, done, total)


def _generate(
    flow: MoleculeFlow, config: EvaluationConfig, records: RecordFile[SampleRecord], report: ProgressCallback
) -> None:
    missing = [index for index in range(config.samples) if index not in records.records]
    sizes = {index: flow.draw_n_atoms(config.seed, index) for index in missing}
    options = config.seed, config.tolerance, config.tolerance, missing, config.temperature, config.refinements
    samples = flow.samples(list(sizes.values()), *options)
    record_samples(samples, sizes, records, config.samples, report)


def record_scores(
    flow: MoleculeFlow,
    config: EvaluationConfig,
    records: RecordFile[ScoreRecord],
    molecules: Mapping[int, Molecule],
    report: ProgressCallback,
) -> None:
    """Score the molecules that a file lacks, and write each score as it finishes.

    Args:
        flow: the model.
        config: settings of the scores.
        records: the file.
        molecules: the molecules by their index in the file.
        report: receives the progress, under the name of the file.
    """
    missing = [row for row in molecules if row not in records.records]
    report(records.name, len(molecules) - len(missing), len(molecules))
    options = EstimatorOptions(config.divergence, config.probes, config.draws, config.tolerance, config.tolerance)
    scores = flow.likelihoods([molecules[row] for row in missing], config.seed, options, indices=missing)
    for done, (row, likelihood) in enumerate(scores, start=len(molecules) - len(missing) + 1):
        records.append(_score_record(row, molecules[row], likelihood))
        report(records.name, done, len(molecules))


def _noise(repeated: Sequence[ScoreRecord], factor: float) -> float:
    """Return the error of scores with fewer draws than the repeated ones, by this factor."""
    errors = [score.std_error for score in repeated if score.std_error is not None]
    return float(np.sqrt(factor * np.mean(np.square(errors)))) if errors else 0.0


def _score_record(row: int, molecule: Molecule, likelihood: Likelihood) -> ScoreRecord:
    fluorine = bool((molecule.atomic_numbers == FLUORINE).any())
    if likelihood.status != Status.SUCCESS:
        return ScoreRecord(row, molecule.n_atoms, fluorine, None, {}, likelihood.nfe, likelihood.status.name)
    return ScoreRecord(
        index=row,
        n_atoms=molecule.n_atoms,
        fluorine=fluorine,
        nll=likelihood.nll,
        parts=dict(likelihood.parts),
        nfe=likelihood.nfe,
        status=likelihood.status.name,
        gain=likelihood.importance_gain,
        std_error=likelihood.std_error,
    )
