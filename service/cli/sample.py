"""The command `enflow sample`: the molecules that the service generates for the same seed."""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from enflow.model.chem.analysis.rejection import Only
from enflow.model.chem.connectivity import joined, open_valences
from enflow.model.chem.formula import parse_formula
from enflow.model.chem.io.formats import Format, recognized
from enflow.model.chem.io.text import ReadLimits, decode
from enflow.model.cli.options import Device, Json, Refinements, print_result
from enflow.model.config import MAX_SEED
from enflow.model.errors import ConfigError, SolverError, StructureError
from enflow.model.files import shown_name
from enflow.model.progress import progress
from enflow.service.cli.bounds import parse_sizes, parse_where
from enflow.service.cli.offline import (
    WEIGHTS_HELP,
    Handle,
    OfflineModel,
    Target,
    ToleranceOption,
    check_target,
    file_text,
    parse_target,
    parse_tolerance,
    read_bytes,
    reporter,
    validated,
)
from enflow.service.handlers.context import HandlerContext
from enflow.service.handlers.fragments import read_fragment
from enflow.service.handlers.sampling import SamplingHandler
from enflow.service.handlers.served_model import ServedModel
from enflow.service.problems import Problem
from enflow.service.protocol.requests import Structure
from enflow.service.rendering.encoders import Answer
from enflow.service.schemas.requests import SampleRequest
from enflow.service.schemas.responses import AttemptsOut, SampleResponse
from enflow.service.schemas.stream_events import MoleculeEvent
from enflow.service.settings import BUNDLED_WEIGHTS, FORMULA_WEIGHTS, FRAGMENT_WEIGHTS

SizeOption = Annotated[
    str | None,
    typer.Option(metavar="N|MIN:MAX", help="Atoms of each: 12, or drawn from a range, 10:14 [default: from p(N)]."),
]
FormulaOption = Annotated[str | None, typer.Option(help="Formula of each, such as C7H10O2; the weights must take one.")]
FragmentOption = Annotated[
    Path | None, typer.Option(help="XYZ or SDF file whose atoms stay; the flow adds the others. - reads stdin.")
]
AttachOption = Annotated[
    list[int] | None,
    typer.Option(
        min=1,
        help="Atom of the fragment, from 1, where it grows: a hydrogen, or one with some; once for each.",
    ),
]
TemperatureOption = Annotated[
    float, typer.Option(help="Standard deviation of the noise, 0.1 to 2: 0.8 gives more stable and fewer unusual ones.")
]
WEIGHTS_DEFAULT = " [default: qm9; with --formula or --fragment the bundled ones that take it]"
OnlyOption = Annotated[
    Only, typer.Option(help="Generate until n molecules are valid, or stable, or connected: valid and in one piece.")
]
SeedOption = Annotated[
    int | None, typer.Option(min=0, max=MAX_SEED, help="Seed of all noise [default: random, and printed].")
]


def sample(
    model: Annotated[Path | None, typer.Argument(metavar="[WEIGHTS]", help="The same as --weights.")] = None,
    n: Annotated[int, typer.Option("-n", "--n-molecules", min=1, help="Number of molecules.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .xyz, .sdf, .csv, .json, or .html for a gallery; - prints XYZ.")
    ] = None,
    n_atoms: SizeOption = None,
    formula: FormulaOption = None,
    fragment: FragmentOption = None,
    attach: AttachOption = None,
    seed: SeedOption = None,
    first_index: Annotated[int, typer.Option(min=0, help="Index of the first: (seed, index) fixes a molecule.")] = 0,
    temperature: TemperatureOption = 1.0,
    refinements: Refinements = None,
    only: OnlyOption = "any",
    bonds: Annotated[bool, typer.Option("--bonds/--no-bonds", help="Without bonds: positions only, faster.")] = True,
    with_nll: Annotated[bool, typer.Option("--with-nll", help="Score each molecule too.")] = False,
    unique: Annotated[bool, typer.Option("--unique", help="Generate until n molecules have different SMILES.")] = False,
    properties: Annotated[
        bool, typer.Option("--properties", help="Compute QED, logP, SA score and others too.")
    ] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=LOWER:UPPER", help="Generate until n have a property within: qed=0.5:, rings=1:1"),
    ] = None,
    sort: Annotated[str | None, typer.Option(help="Order, by a property or nll; -qed: the largest first.")] = None,
    tolerance: ToleranceOption = "standard",
    weights: Annotated[Path | None, typer.Option(help=WEIGHTS_HELP + WEIGHTS_DEFAULT)] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Generate molecules: enflow sample -n 100 --out molecules.sdf, or with --formula C7H10O2

    With another model: enflow sample lj13 -n 10 --out lj13.xyz
    Around a fragment: enflow sample --fragment core.sdf --attach 3 -n 8 --out grown.sdf

    Without --out they are printed as XYZ. Ctrl-C ends the command with the molecules so far. The same seed gives the
    same molecules: alone, in company, and from the service. Valid: RDKit finds bonds in which every atom has its
    valence. Stable: every atom has its valence by the table of bond lengths that the literature uses.
    """
    for option, value in (("--n-atoms", n_atoms), ("--fragment", fragment)):
        if formula is not None and value is not None:
            raise ConfigError(f"found --formula and {option}; expected one of them")
    target = parse_target(out)
    values: dict[str, Any] = {
        "n_molecules": n,
        "n_atoms": None if n_atoms is None else parse_sizes(n_atoms),
        "formula": formula,
        "fragment": fragment and read_fragment_text(fragment),
        "attach": attach or None,
        "first_index": first_index,
    }
    values |= {"temperature": temperature, "refinements": refinements, "bonds": bonds, "only": only}
    values |= {"unique": unique, "properties": properties, "where": parse_where(where or []), "sort": sort}
    values |= {"seed": secrets.randbits(32) if seed is None else seed, "tolerance": parse_tolerance(tolerance)}
    offline = OfflineModel(weights_of(model, weights, values), device, n)
    check_target(offline.card, target)
    request = parse_request(offline, {**values, "with_nll": with_nll})
    print_answer(generate(offline, request), target, n, as_json=as_json)
    offline.end_if_interrupted(target)


def print_answer(answer: Answer, target: Target | None, n: int, *, as_json: bool) -> None:
    """Write the molecules to a file or print them as XYZ, and print a summary; with --json print one document."""
    response = answer.document
    assert isinstance(response, SampleResponse), "the document of SamplingHandler"
    if target:
        target.write(_as_text(answer, target.form))
    if as_json:
        facts = json.loads(_as_text(answer, "json"))
        if target:
            facts = {**facts, "out": shown_name(target.path)}
            del facts["molecules"]
        print_result("", facts, as_json=True)
    elif target is None:
        typer.echo(_as_text(answer, "xyz"), nl=False)
    if not as_json or len(answer.molecules) < n:
        typer.echo(f"{_summary(response.attempts, _verdicts(response))}, seed {response.seed}", err=True)


def parse_request(offline: OfflineModel, values: dict[str, Any]) -> SampleRequest:
    """Return the request of a command line; print a warning for a formula of which no molecule is valid.

    Raises:
        ConfigError: a value out of range, or one that the model cannot use.
        StructureError, VocabularyError: the formula is none, or none of the model's elements.
    """
    card = offline.card
    if values["formula"] is not None and not (card.takes_formulas or card.system):
        raise ConfigError(f"found --formula, but {card.name} draws the elements itself; see --weights")
    if values["formula"] is not None and card.takes_formulas:
        counts = parse_formula(values["formula"], card.vocabulary)  # the schema would refuse it without repeating it
        electrons = sum(z * count for z, count in zip(card.vocabulary.atomic_numbers, counts, strict=True))
        if electrons % 2:
            found = f"found {electrons} electrons in {values['formula']}, an odd number"
            typer.echo(f"enflow: {found}; no molecule of this formula is valid, expected an even number", err=True)
    largest = card.vocabulary.max_atoms
    size = values["n_atoms"]
    smallest = size["min"] if isinstance(size, dict) else size or 0
    if smallest > largest:
        raise ConfigError(f"found {smallest} atoms; the model knows at most {largest}")
    return validated(SampleRequest, values, offline)


def generate(offline: OfflineModel, request: SampleRequest) -> Answer:
    """Return the molecules of a request.

    Raises:
        ConfigError: the model cannot generate such molecules.
        SolverError: no molecule was kept.
    """

    async def handle(served: ServedModel, context: HandlerContext) -> Answer:
        try:
            prepared = served.prepare_request(request)
            fragment = await read_fragment(served, prepared)
            _warn_if_closed(fragment, request)
        except Problem as problem:
            raise ConfigError(problem.detail) from None
        return await SamplingHandler(served, prepared, context, fragment=fragment).run()

    assert request.seed is not None, "the command draws a seed"
    return run_sampling(offline, handle, request.seed, len(request.sizes))


def _warn_if_closed(fragment: Structure | None, request: SampleRequest) -> None:
    """Print a warning for a fragment that has no place to grow."""
    if fragment is None or request.attach is not None:
        return
    if not open_valences(*fragment, joined(*fragment)).any():
        found = "found no atom of the fragment that lacks a bond; the other atoms may make a second molecule beside it"
        typer.echo(f"enflow: {found}, expected --attach, or a fragment with an open bond", err=True)


def run_sampling(offline: OfflineModel, handle: Handle, seed: int, n_molecules: int) -> Answer:
    """Return the answer of a handler of molecules, with a progress bar.

    Raises:
        SolverError: no molecule was kept.
    """
    with progress() as report:
        answer = offline.run(handle, seed, reporter(report, "sampling", MoleculeEvent, n_molecules))
    assert isinstance(answer.document, SampleResponse), "the document of SamplingHandler"
    if not answer.molecules:
        raise SolverError(f"found no molecule to keep: {_summary(answer.document.attempts)}")
    return answer


def read_fragment_text(path: Path) -> dict[str, str]:
    """Return the file of a fragment as the field of a request.

    Raises:
        DataError: the file cannot be read.
        ConfigError: it is neither XYZ nor SDF.
    """
    content = read_bytes(path)
    try:
        text = decode(content, ReadLimits())
    except StructureError as error:
        raise ConfigError(f"{path}: {error}") from None
    form = recognized(text, path.name)
    if form not in ("xyz", "sdf"):
        raise ConfigError(f"found {form or 'an unknown format'} in {path}, expected XYZ or SDF")
    return {"format": form, "data": text}


def weights_of(model: Path | None, weights: Path | None, values: Mapping[str, Any]) -> Path:
    """Return the weights to load: those that are named, else the bundled ones, which take a formula or a fragment.

    Raises:
        ConfigError: two weights are named, as the argument and as the option.
    """
    if model is not None and weights not in (None, model):
        raise ConfigError(f"found {model} and --weights {weights}; expected one of them")
    named = model or weights
    if named is not None:
        return named
    if values["fragment"] is not None:
        return FRAGMENT_WEIGHTS
    return BUNDLED_WEIGHTS if values["formula"] is None else FORMULA_WEIGHTS


def _as_text(answer: Answer, form: Format) -> str:
    if form == "json":
        return answer.document.model_dump_json(exclude_unset=True) + "\n"
    records = [each.sdf for each in answer.molecules if each.sdf is not None]
    if form == "sdf" and len(records) == len(answer.molecules):  # the RDKit processes have written them
        return "".join(records)
    return file_text([each.molecule for each in answer.molecules], [each.bonds for each in answer.molecules], form)


def _verdicts(response: SampleResponse) -> str:
    """Return how many molecules are valid and stable, and with a fragment in one piece; empty for particles."""
    found = {
        name: [value for each in response.molecules if (value := getattr(each, name, None)) is not None]
        for name in ("connected", "valid", "stable")
    }
    return "".join(f", {sum(values)} {name}" for name, values in found.items() if values)


def _summary(attempts: AttemptsOut, verdicts: str = "") -> str:
    """Return the numbers of molecules in a sentence, `verdicts` after that of those kept."""
    counts = sorted(attempts.reasons.items(), key=lambda each: -each[1])
    reasons = "".join(f"; {count} x {reason}" for reason, count in counts)
    return f"{attempts.found} of {attempts.tried} molecules kept{verdicts}{reasons}"
