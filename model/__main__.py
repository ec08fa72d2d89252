"""Command line of the model: data, train, evaluate, import-en-flows; `service.__main__` adds the rest of `enflow`."""

import json
import os
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from enflow.model.cli.options import Device, Divergence, Json, pick_device, tell
from enflow.model.cli.particles import particles_app
from enflow.model.errors import EnflowError
from enflow.model.progress import progress

app = typer.Typer(
    name="enflow",
    help="Generate and score 3D molecules with an E(n) equivariant normalizing flow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Fetch and prepare data sets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(particles_app, name="particles")


UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises for wrong arguments; it keeps the class to itself, but for this child."""


def main() -> None:
    """Run the command line; bad input ends in one line on standard error and exit code 1."""
    try:
        code = app(prog_name="enflow", standalone_mode=False)
    except EnflowError as error:
        code = _complain(str(error))
    except UsageError as error:
        code = _complain(error.format_message())  # type: ignore[attr-defined]
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:  # the reader of our output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _complain(message: str) -> int:
    helps = message.startswith("Usage:")  # what is told where no command is named
    typer.echo(message if helps else f"enflow: {' '.join(message.split())}", err=not helps)
    return int(not helps)


@data_app.command()
def qm9(
    out: Annotated[Path | None, typer.Option(help="Folder for qm9.npz [default: $ENFLOW_DATA, or data].")] = None,
    files: Annotated[Path | None, typer.Option(help="Folder with the official files; without it, fetch them.")] = None,
    as_json: Json = False,
) -> None:
    """Prepare QM9 from its official files (figshare collection 978904, 87 MB).

    Takes dsgdb9nsd.xyz.tar.bz2 and uncharacterized.txt, verifies their hashes, and goes on with a broken download when
    called again. Removes the 3,054 uncharacterized molecules and splits the rest like EGNN, E-NF and EDM: 100,000 to
    train, 17,748 to validate, 13,083 to test.
    """
    from enflow.model.training.data.qm9 import SETTING
    from enflow.model.training.data.qm9_prepare import prepare

    with progress() as report:
        path = prepare(out or Path(os.environ.get(SETTING, "data")), report, files)
    tell(f"wrote {path}", {"path": str(path), "bytes": path.stat().st_size}, as_json=as_json)


@data_app.command()
def particles(
    system: Annotated[list[str] | None, typer.Argument(help="dw4, lj13 [default: both].")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the files [default: $ENFLOW_DATA, or data].")] = None,
    seed: Annotated[int, typer.Option(help="Fixes the samples.")] = 0,
    as_json: Json = False,
) -> None:
    """Sample the particle systems of the paper by many chains, and find their entropy by annealing.

    Writes dw4.npz and lj13.npz with the training, validation and test samples, split by chain, and beside each a JSON
    file with virial, split-R-hat, effective sample sizes, log Z and entropy. Some minutes on one core.
    """
    from enflow.model.training.data.particles import SYSTEMS, make
    from enflow.model.training.data.qm9 import SETTING

    folder = out or Path(os.environ.get(SETTING, "data"))
    with progress() as report:
        for name in system or SYSTEMS:
            facts = make(name, folder, seed, report)
            text = f"{name}: entropy {facts.entropy:.3f} +- {facts.entropy_error:.3f} nats"
            tell(f"{text}, virial {facts.virial:.2f} +- {facts.virial_error:.2f}", asdict(facts), as_json=as_json)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="Configuration, such as model/training/configs/qm9.json.")],
    run: Annotated[Path | None, typer.Option(help="Folder of the run [default: runs/NAME].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stopped, exactly.")] = False,
    anneal: Annotated[int | None, typer.Option(help="Lower the rate to zero over so many molecules, then end.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the weights, once the run or annealing has ended.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a flow; the state is written every few minutes, and metrics.jsonl holds the curves.

    Needs the data that `enflow data` prepares. Stop it with Ctrl-C whenever you like: --resume goes on at the last
    state written, with the same molecules and the same noise as if it had never stopped.
    """
    from enflow.model.training.config import read_config
    from enflow.model.training.export import export_state
    from enflow.model.training.run import train as records

    settings = read_config(config)
    folder = run or Path("runs") / settings.name
    with progress() as report:
        for record in records(settings, folder, resume=resume, anneal=anneal, device=pick_device(device)):
            if as_json:
                typer.echo(json.dumps(record))
            note = ", ".join(
                f"{name} {record[name]}" for name in ("loss_x", "loss_h", "molecules_per_s") if name in record
            )
            report("molecules", record["passes"], settings.passes, note)
    if out is not None:
        state = folder / ("state.pt" if anneal is None else "annealed.pt")
        card = export_state(settings, state, out)
        tell(f"wrote {out}", {"path": str(out), "weights_sha256": card.weights_sha256}, as_json=as_json)


@app.command()
def evaluate(
    weights: Annotated[Path, typer.Argument(help="Folder with weights.safetensors and card.json.")],
    samples: Annotated[int, typer.Option(min=0, help="Molecules to generate.")] = 1000,
    molecules: Annotated[int, typer.Option(min=0, help="Test molecules to score.")] = 1000,
    seed: Annotated[int, typer.Option(help="Fixes all that is drawn.")] = 0,
    tolerance: Annotated[float | None, typer.Option(min=1e-7, help="Of the solver [default: the card's].")] = None,
    divergence: Annotated[Divergence, typer.Option(help="An unbiased estimate, or exact and slow.")] = "hutchinson",
    probes: Annotated[int, typer.Option(min=1, help="Of the estimate, per molecule.")] = 1,
    draws: Annotated[int, typer.Option(min=1, help="Of the dequantizer; several, exact: weighted by importance.")] = 1,
    curve: Annotated[int, typer.Option(min=0, help="Molecules per point of quality against evaluations.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the results [default: runs/evaluate/NAME-HASH].")] = None,
    write_card: Annotated[bool, typer.Option("--write-card", help="Put the results beside the weights.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Of PyTorch: more than one gain little on a CPU.")] = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a model: stability, validity, uniqueness, novelty of samples; NLL of test molecules; quality over cost.

    Every molecule is kept in the results as it is finished: the same command goes on where an earlier one stopped, and
    larger numbers add to what is there. On a free core 1,000 samples take some two minutes and 1,000 scores ten; two
    commands, one with --samples 0 and one with --molecules 0, use two cores. evaluation.json holds the figures and
    evaluation.html draws them. --write-card puts both beside the weights, the metrics into the card, and writes
    percentiles.json, the NLLs that the service compares a molecule's own with.
    """
    import torch

    from enflow.model.card import read_card
    from enflow.model.checkpoint import load
    from enflow.model.config import TOLERANCES
    from enflow.model.training.data.qm9 import data_file
    from enflow.model.training.evaluation import evaluate as measure
    from enflow.model.training.evaluation.publish import publish, publish_card
    from enflow.model.training.evaluation.solver_curve import curve as trace
    from enflow.model.training.evaluation.summary import table

    torch.set_num_threads(threads)
    card = read_card(weights)
    chosen = tolerance or card.metrics.get("tolerance", TOLERANCES["standard"])
    settings = measure.Evaluation(samples, molecules, seed, chosen, divergence, probes, draws)
    folder = out or Path("runs") / "evaluate" / f"{card.name}-{card.weights_sha256[:8]}"
    flow = load(weights, pick_device(device))
    with progress() as report:
        found = measure.evaluate(flow, card.weights_sha256, data_file(), folder, settings, report)
        points = trace(flow, card.weights_sha256, folder, curve, seed, report) if curve else []
    command = shlex.join(["enflow", *sys.argv[1:]])
    publish(folder, card, command, found, points)
    if write_card:
        publish(weights, card, command, found, points)
        publish_card(weights, found)
    tell(table(found.metrics), found.metrics | ({"curve": points} if points else {}), as_json=as_json)


@app.command()
def import_en_flows(
    directory: Annotated[Path, typer.Argument(help="Folder with flow.npy and dequantizer.npy.")],
    out: Annotated[Path, typer.Argument(help="Folder for weights.safetensors and card.json.")],
    as_json: Json = False,
) -> None:
    """Convert the QM9 model that the authors of E-NF released; it then samples and scores like any other.

    Reads tensors only; the pickle beside them is never opened.
    """
    from enflow.model import checkpoint

    flow = checkpoint.import_en_flows(directory)
    card = checkpoint.Card(
        name="en_flows_qm9",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit="vgsatorras/en_flows 2fd18bf",
        config=flow.config,
        dataset=checkpoint.Dataset("QM9", "not recorded by its authors", "100,000 train, 17,748 valid, 13,083 test"),
        seed=0,
        licence="MIT, copyright 2021 vgsatorras and ehoogeboom",
        metrics={},
    )
    card = checkpoint.save(flow, out, card)
    tell(f"wrote {out}", {"path": str(out), "weights_sha256": card.weights_sha256}, as_json=as_json)


if __name__ == "__main__":
    main()
