"""The command `enflow variations`: the molecules near one that the service generates for the same seed."""

import secrets
from pathlib import Path
from typing import Annotated, Literal

import typer

from enflow.model.cli.options import Device, Json
from enflow.model.config import STRENGTH
from enflow.model.errors import ConfigError, StructureError
from enflow.service.cli.likelihood import prepare, read_records
from enflow.service.cli.offline import (
    OfflineModel,
    ToleranceOption,
    Weights,
    check_target,
    parse_target,
    parse_tolerance,
    validated,
)
from enflow.service.cli.sample import OnlyOption, SeedOption, print_answer, run_sampling
from enflow.service.handlers.context import HandlerContext
from enflow.service.handlers.served_model import ServedModel
from enflow.service.handlers.variations import VariationsHandler
from enflow.service.rendering.encoders import Answer
from enflow.service.schemas.requests import VariationsOptions
from enflow.service.settings import BUNDLED_WEIGHTS


def variations(
    file: Annotated[Path, typer.Argument(help="XYZ, SDF or SMILES (.smi) file of one molecule; - reads XYZ or SDF.")],
    n: Annotated[int, typer.Option("-n", "--n-molecules", min=1, help="Number of molecules.")] = 8,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .xyz, .sdf, .csv, .json, or .html for a gallery; - prints XYZ.")
    ] = None,
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="Share of noise: 0 = the molecule, 1 = any molecule of its size.")
    ] = STRENGTH,
    keep: Annotated[
        Literal["any", "types", "graph"], typer.Option(help="Generate until n keep the elements, or the bonds too.")
    ] = "any",
    only: OnlyOption = "any",
    seed: SeedOption = None,
    tolerance: ToleranceOption = "standard",
    weights: Weights = BUNDLED_WEIGHTS,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Generate molecules near one: enflow variations molecule.sdf -n 20 --out near.sdf

    Noise is added to the molecule, and the flow removes it. At a strength of 0.5 half of the molecules keep their
    bonds, from 0.7 on hardly any does. Without --out they are printed as XYZ; the same seed gives the same molecules.
    """
    target = parse_target(out)
    records = [structure for _, structure in read_records(file)]
    for each in records:
        if isinstance(each, StructureError):
            raise ConfigError(f"{file}: {each}")
    offline = OfflineModel(weights, device)
    if offline.card.kind != "molecules":
        raise ConfigError(f"found {offline.card.name}, a model of the kind {offline.card.kind}; expected molecules")
    check_target(offline.card, target)
    values = {"n_molecules": n, "strength": strength, "keep": keep, "only": only}
    options = validated(VariationsOptions, values | {"tolerance": parse_tolerance(tolerance)}, offline)

    async def handle(served: ServedModel, context: HandlerContext) -> Answer:
        return await VariationsHandler(served, options, [prepare(served, each) for each in records], context).run()

    answer = run_sampling(offline, handle, secrets.randbits(32) if seed is None else seed, n)
    print_answer(answer, target, n, as_json=as_json)
    offline.end_if_interrupted(target)
