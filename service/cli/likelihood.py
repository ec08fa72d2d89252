"""`enflow likelihood`: scores from a shell, the very ones that the service gives."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from enflow.model.chem.bonds import Bonds, infer_bonds
from enflow.model.chem.io.formats import Format, read, write
from enflow.model.chem.molecule import Molecule, check_vocabulary
from enflow.model.cli.options import Device, Divergence, Json, print_result
from enflow.model.errors import DataError, EnflowError, ModelError
from enflow.model.progress import progress
from enflow.service.cli.offline import OfflineEngine, ToleranceOption, Weights, number, refuse_bonds, target
from enflow.service.model_card import ModelCard
from enflow.service.protocol.events import Failed, Scored
from enflow.service.protocol.requests import EngineLikelihoodRequest, EstimatorOptions, Structure
from enflow.service.rendering.particles import unbound
from enflow.service.settings import BUNDLED_WEIGHTS


def likelihood(
    files: Annotated[list[Path], typer.Argument(help="XYZ, SDF or SMILES (.smi) files, of one molecule or many.")],
    out: Annotated[
        Path | None, typer.Option(help="File for the scored molecules: .xyz, .sdf or .html; .json for the scores.")
    ] = None,
    divergence: Annotated[Divergence, typer.Option(help="Exact, or Hutchinson's estimate: faster.")] = "exact",
    probes: Annotated[int, typer.Option(min=1, help="Of the estimate.")] = 1,
    draws: Annotated[int, typer.Option(min=1, help="Of the dequantizer: more draws, a tighter bound.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Fixes all noise.")] = 0,
    tolerance: ToleranceOption = "standard",
    weights: Weights = BUNDLED_WEIGHTS,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score molecules: enflow likelihood molecules.sdf

    For each one the negative log-likelihood (NLL) in nats, lower = likelier; an upper bound, since atom types are
    discrete. Its parts add up to it; the percentile places it among held-out molecules of its size. A structure that
    cannot be scored gets a line that says why, the others are scored, and the exit code is 1.
    """
    place, tol = target(out), number(tolerance)
    records = [record for path in files for record in _read(path)]
    engine = OfflineEngine(weights, device)
    refuse_bonds(engine.card, place)
    entries = [record if isinstance(record[1], EnflowError) else _known(record, engine.card) for record in records]
    usable = {i: each for i, (_, each) in enumerate(entries) if isinstance(each, Molecule)}
    wanted = EngineLikelihoodRequest(
        id="",
        molecules=tuple(Structure(each.atomic_numbers, each.positions) for each in usable.values()),
        seed=seed,
        options=EstimatorOptions(divergence, probes, draws, tol, tol),
    )
    results: dict[int, dict[str, Any]] = {
        i: {"index": i, "file": file, "error": str(each)} for i, (file, each) in enumerate(entries) if i not in usable
    }
    places = list(usable)
    with progress() as report:
        for event in engine.answers(wanted) if usable else ():
            if isinstance(event, Scored | Failed):
                i = places[event.index]
                results[i] = _result(i, entries[i][0], usable[i], event, engine.card)
                report("scoring", len(results), len(entries))
    ordered = [results[i] for i in range(len(entries))]
    answer = {"seed": seed, "model": engine.heading, "results": ordered}
    if place:
        place.write(_written(place.form, answer, usable, unbound if engine.card.system else infer_bonds))
    print_result(_table(ordered), answer, as_json=as_json)
    raise typer.Exit(int(any("error" in each for each in ordered)))


def _read(path: Path) -> list[tuple[str, Molecule | EnflowError]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    form = "smiles3d" if path.suffix.lower() == ".smi" else None
    try:
        return [(str(path), record) for record in read(content, form)]
    except ModelError as error:
        raise DataError(f"{path}: {error}") from error


def _known(record: tuple[str, Molecule | EnflowError], card: ModelCard) -> tuple[str, Molecule | EnflowError]:
    file, molecule = record
    assert isinstance(molecule, Molecule)
    try:
        if card.system:
            return file, card.system.taken(molecule)
        check_vocabulary(molecule, card.vocabulary)
    except ModelError as error:
        return file, error
    return record


def _result(place: int, file: str, molecule: Molecule, event: Scored | Failed, card: ModelCard) -> dict[str, Any]:
    head = {"index": place, "file": file, "formula": molecule.formula, "n_atoms": molecule.n_atoms}
    if isinstance(event, Failed):
        return {**head, "error": f"{event.reason.value}: {event.detail}"}
    energy = {"energy": card.system.energy(molecule.positions)} if card.system else {}
    return {
        **head,
        **energy,
        "nll": event.nll,
        "nll_per_atom": event.nll / molecule.n_atoms,
        "std_error": event.std_error,
        "parts": dict(event.parts),
        "percentile": card.percentile(molecule.n_atoms, event.nll),
        "quadrature_error": event.quadrature_error,
        "nfe": event.nfe,
        "solver_status": event.status,
    }


_FACTS = ("file", "nll", "std_error", "percentile", "nfe", "solver_status")


def _written(
    form: Format, answer: dict[str, Any], molecules: Mapping[int, Molecule], bonds_of: Callable[[Molecule], Bonds]
) -> str:
    """The molecules that were scored, with their scores; what could not be scored stands in the table alone."""
    if form == "json":
        return json.dumps(answer, indent=1, allow_nan=False) + "\n"
    scored = [result for result in answer["results"] if "error" not in result]
    whole = []
    for result in scored:
        molecule, facts = molecules[result["index"]], {name: result[name] for name in _FACTS}
        whole.append(Molecule(molecule.atomic_numbers, molecule.positions, molecule.name, facts))
    return write(whole, [bonds_of(molecule) for molecule in whole], form)


def _table(results: list[dict[str, Any]]) -> str:
    head = (
        f"{'':>5} {'formula':<12} {'NLL':>10} {'+-':>7}  {'base':>9} {'divergence':>10} {'dequantizer':>11} {'p(N)':>6}"
    )
    return "\n".join([head + f" {'percentile':>10}  file", *map(_line, results)])


def _line(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"{result['index']:>5} {result.get('formula', ''):<12} {result['error']}  {result['file']}"
    parts, error, percentile = result["parts"], result["std_error"], result["percentile"]
    return (
        f"{result['index']:>5} {result['formula']:<12} {result['nll']:>10.2f} {_maybe(error, '.2f'):>7}  "
        f"{parts['base']:>9.2f} {parts['divergence']:>10.2f} {parts['dequantizer']:>11.2f} {parts['n_atoms']:>6.2f} "
        f"{_maybe(percentile, '.0f'):>10}  {result['file']}"
    )


def _maybe(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
