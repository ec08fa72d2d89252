"""The command `enflow likelihood`: the scores that the service computes for the same structures and seed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from enflow.model.chem.bonds import Bonds
from enflow.model.chem.io.csv_table import csv_row, write_rows
from enflow.model.chem.io.data_items import one_line
from enflow.model.chem.io.formats import Format, read
from enflow.model.chem.molecule import Molecule
from enflow.model.cli.options import Device, Divergence, Json, print_result
from enflow.model.config import MAX_SEED
from enflow.model.errors import ConfigError, EnflowError, ModelError
from enflow.model.files import shown_name
from enflow.model.flow.estimator_options import PROBES
from enflow.model.progress import ProgressCallback, progress
from enflow.service.cli.offline import (
    OfflineModel,
    Target,
    ToleranceOption,
    Weights,
    check_target,
    file_text,
    parse_target,
    parse_tolerance,
    read_bytes,
    reporter,
    validated,
)
from enflow.service.handlers.context import HandlerContext
from enflow.service.handlers.likelihood import LikelihoodHandler
from enflow.service.handlers.served_model import ServedModel
from enflow.service.rendering.encoders import Answer
from enflow.service.schemas.requests import LikelihoodOptions
from enflow.service.schemas.responses import LikelihoodResponse, ScoreErrorOut
from enflow.service.schemas.stream_events import ScoreEvent
from enflow.service.settings import BUNDLED_WEIGHTS

SortOption = Annotated[
    Literal["nll", "-nll"] | None,
    typer.Option(
        metavar="nll|-nll", help="Order: the likeliest first; with -nll last. Failures at the end [default: as given]."
    ),
]

Record = tuple[str, Molecule | EnflowError]
"""The name of a file, and one of its structures or the error of it."""

_PROPERTIES = ("file", "percentile")
"""The results that structure files have beside the properties of a scored molecule."""


def likelihood(
    files: Annotated[
        list[Path], typer.Argument(help="XYZ, SDF or SMILES (.smi) files, of one molecule or many; - reads XYZ or SDF.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the scored molecules: .xyz, .sdf, .csv or .html; .json for the scores; - prints XYZ."
        ),
    ] = None,
    target_error: Annotated[
        float, typer.Option(min=0.1, max=100.0, help="Standard error in nats at which the estimate stops.")
    ] = 2.0,
    divergence: Annotated[Divergence, typer.Option(help="hutchinson: an estimate; exact: slower.")] = "hutchinson",
    probes: Annotated[
        int | None, typer.Option(min=1, help=f"Probes of Hutchinson's estimate at every node [default: {PROBES}].")
    ] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Draws of the dequantizer [default: as many as the error needs].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of all noise.")] = 0,
    sort: SortOption = None,
    tolerance: ToleranceOption = "standard",
    weights: Weights = BUNDLED_WEIGHTS,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score molecules: enflow likelihood molecules.sdf

    The score of a molecule is its negative log-likelihood (NLL) in nats, lower = likelier; an upper bound, since atom
    types are discrete. Its parts add up to it; the percentile places it among held-out molecules of its size. A file
    or a structure that cannot be scored gets a line with the reason, the others are scored, and the exit code is 1.
    """
    target = parse_target(out)
    values: dict[str, Any] = {"target_error": target_error, "divergence": divergence, "probes": probes, "draws": draws}
    values["tolerance"] = parse_tolerance(tolerance)
    records = [record for path in files for record in read_records(path)]
    offline = OfflineModel(weights, device)
    if offline.card.takes_fragments:
        raise ConfigError(f"found {offline.card.name}, which scores no whole molecules; see enflow sample --fragment")
    options = validated(LikelihoodOptions, values, offline)
    check_target(offline.card, target)
    with progress() as report:
        answer = score(offline, options, records, seed, report)
    response = answer.document
    assert isinstance(response, LikelihoodResponse), "the document of LikelihoodHandler"
    results = in_order([_result(entry) for entry in response.results], sort)
    facts = {"seed": seed, "model": response.model.model_dump(), "results": results}
    if target:
        _write(target, facts, answer)
    if target and target.is_stdout and not as_json:
        typer.echo(_table(results), err=True)
    else:
        print_result(_table(results), facts, as_json=as_json)
    offline.end_if_interrupted(target)
    raise typer.Exit(int(any("error" in each for each in results)))


def read_records(path: Path) -> list[Record]:
    """Return the structures of a file in order; a file that cannot be read is one error."""
    file = shown_name(path)
    try:
        return [(file, each) for each in read(read_bytes(path), name=path.name)]
    except ModelError as error:
        return [(file, error)]


def score(
    offline: OfflineModel,
    options: LikelihoodOptions,
    records: Sequence[Record],
    seed: int,
    report: ProgressCallback,
) -> Answer:
    """Return the scores of structures, with the error of each that the model does not know."""

    async def handle(served: ServedModel, context: HandlerContext) -> Answer:
        known = [prepare(served, each) for _, each in records]
        files = [file for file, _ in records]
        return await LikelihoodHandler(served, options, known, context, files=files).run()

    return offline.run(handle, seed, reporter(report, "scoring", ScoreEvent, len(records)))


def prepare(served: ServedModel, structure: Molecule | EnflowError) -> Molecule | EnflowError:
    """Return a structure as the model takes it, or the error that it has."""
    try:
        return served.prepare_structure(structure) if isinstance(structure, Molecule) else structure
    except ModelError as error:
        return error


def in_order(results: Sequence[dict[str, Any]], sort: Literal["nll", "-nll"] | None) -> list[dict[str, Any]]:
    """Return results in an order; structures without a score come last, in the order of the files."""
    sign = {None: 0, "nll": 1, "-nll": -1}[sort]
    return sorted(results, key=lambda each: ("error" in each, sign * each.get("nll", 0.0))) if sign else [*results]


def _result(entry: Any) -> dict[str, Any]:
    if isinstance(entry, ScoreErrorOut):
        named = {"name": entry.name} if entry.name else {}
        return {"index": entry.index, "file": entry.file, **named, "error": entry.error.detail}
    found: dict[str, Any] = json.loads(entry.model_dump_json(exclude_unset=True))
    return found


def _write(target: Target, facts: Mapping[str, Any], answer: Answer) -> None:
    """Write the file, and print what it does not have."""
    target.write(_as_text(target.form, facts, answer))
    _say_left_out(target, facts["results"])


def _as_text(form: Format, facts: Mapping[str, Any], answer: Answer) -> str:
    """Return the scores as JSON, or the scored molecules with their scores as a file of structures."""
    if form == "json":
        return json.dumps(facts, indent=1, allow_nan=False) + "\n"
    molecules, bonds = [], []
    scored = {each.document.index: each for each in answer.molecules}
    for result in (each for each in facts["results"] if "error" not in each):
        molecule = scored[result["index"]].molecule
        bonds.append(scored[result["index"]].bonds)
        properties = {**molecule.properties, **{name: result[name] for name in _PROPERTIES if name in result}}
        molecules.append(Molecule(molecule.atomic_numbers, molecule.positions, molecule.name, properties))
    return _csv(molecules, bonds, facts["results"]) if form == "csv" else file_text(molecules, bonds, form)


def _csv(molecules: Sequence[Molecule], bonds: Sequence[Bonds], results: Sequence[dict[str, Any]]) -> str:
    """Return a line for each structure in order: the score, or the reason why there is none."""
    scored = iter([csv_row(*pair) for pair in zip(molecules, bonds, strict=True)])
    rows = [_failed_row(each) if "error" in each else next(scored) for each in results]
    columns = [name for row in rows if "error" not in row for name in row]
    return write_rows(rows, ["name"] * any("name" in row for row in rows) + columns)


def _failed_row(result: Mapping[str, Any]) -> Mapping[str, object]:
    """Return the line of a structure that has no score; the index has the name that it has in the other lines."""
    named = {"name": result["name"]} if "name" in result else {}
    return {**named, "file": result["file"], "score_index": result["index"], "error": result["error"]}


def _say_left_out(target: Target, results: Sequence[dict[str, Any]]) -> None:
    """Print how many structures a file of molecules does not have, and why, for the formats that cannot say it."""
    failed = [each for each in results if "error" in each]
    if failed and target.form not in ("csv", "json"):
        first = failed[0]
        others = f"; the first, number {first['index'] + 1}" if len(failed) > 1 else f"; number {first['index'] + 1}"
        where = "the output" if target.is_stdout else target.path
        count = f"{len(failed)} of {len(results)} structures, which could not be scored"
        typer.echo(f"enflow: {where} lacks {count}{others}: {first['error']}", err=True)


def _table(results: Sequence[dict[str, Any]]) -> str:
    numbers = f"{'NLL':>10} {'+-':>7}  {'base':>9} {'divergence':>10} {'dequantizer':>11} {'p(N)':>6}"
    names = [one_line(each["name"]) if each.get("name") else "" for each in results]
    width = max(map(len, ["name", *names])) + 2 if any(names) else 0
    head = f"{'':>5} {'formula':<12} {numbers} {'percentile':>10}  {'name' if width else '':<{width}}file"
    return "\n".join([head, *(_line(each, f"{name:<{width}}") for each, name in zip(results, names, strict=True))])


def _line(result: dict[str, Any], name: str) -> str:
    """Return the line of a result; the name of the structure is as wide as the column."""
    if "error" in result:
        return f"{result['index'] + 1:>5} {result['error']}  {name}{result['file']}"
    parts, kind = result["parts"], result.get("formula") or f"{result.get('n_particles')} particles"
    return (
        f"{result['index'] + 1:>5} {kind:<12} {result['nll']:>10.2f} {_number(result['std_error'], '.2f'):>7}  "
        f"{parts['base']:>9.2f} {parts['divergence']:>10.2f} {_number(parts.get('dequantizer'), '.2f'):>11} "
        f"{_number(parts.get('n_atoms'), '.2f'):>6} {_number(result.get('percentile'), '.0f'):>10}  "
        f"{name}{result['file']}"
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
