"""The commands data, train, evaluate, particles and import-en-flows; `enflow.service.command_line` adds the others."""

import errno
import json
import os
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from enflow.model.cli.options import (
    Device,
    Divergence,
    Json,
    JsonLines,
    Refinements,
    pick_device,
    print_result,
    says_what_is_kept,
)
from enflow.model.cli.particles import particles_app
from enflow.model.errors import ConfigError, EnflowError
from enflow.model.files import shown_name
from enflow.model.progress import progress

app = typer.Typer(
    name="enflow",
    help="Generate and score 3D molecules with an E(n) equivariant normalizing flow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Download and prepare data sets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(particles_app, name="particles")


UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The exception of wrong arguments; typer does not export it, only this subclass."""

USAGE_ERROR, INTERRUPTED = 2, 130
"""The exit codes of wrong arguments and of Ctrl-C, as in other programs."""

OUTPUT_ERRORS = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EBADF)
"""The errors of an output that names no file: a full or broken device behind it, or none."""


def main() -> None:
    """Run the command line; bad input prints one line on standard error and exits with 1, a wrong call with 2."""
    try:
        code = app(prog_name="enflow", standalone_mode=False)
    except EnflowError as error:
        code = _print_error(str(error))
    except UsageError as error:
        code = _print_error(error.format_message(), USAGE_ERROR)  # type: ignore[attr-defined]
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        _discard_output()
        code = 1
    except OSError as error:
        place = error.filename or ("output" if error.errno in OUTPUT_ERRORS else "")
        code = _print_error(": ".join(filter(None, [place, error.strerror or str(error)])))
        _discard_output()
    if code == INTERRUPTED:  # also where typer has made the code of a KeyboardInterrupt
        _print_error("interrupted")
    sys.exit(code)


def _discard_output() -> None:
    """Discard what is still to be written to the output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(message: str, code: int = 1) -> int:
    is_help = message.startswith("Usage:")  # the text for a call without a command
    typer.echo(message if is_help else f"enflow: {' '.join(message.split())}", err=not is_help)
    return 0 if is_help else code


@data_app.command()
def qm9(
    out: Annotated[Path | None, typer.Option(help="Folder for qm9.npz [default: $ENFLOW_DATA, or data].")] = None,
    files: Annotated[Path | None, typer.Option(help="Folder with the official files [default: download them].")] = None,
    as_json: Json = False,
) -> None:
    """Prepare QM9 from its official files (figshare collection 978904, 87 MB).

    Reads dsgdb9nsd.xyz.tar.bz2 and uncharacterized.txt and verifies their hashes. A broken download is tried again.
    Removes the 3,054 uncharacterized molecules and splits the rest like EGNN, E-NF and EDM: 100,000 for training,
    17,748 for validation, 13,083 for the test.
    """
    from enflow.model.training.data.qm9 import data_folder
    from enflow.model.training.data.qm9_prepare import prepare

    with progress() as report:
        path = prepare(out or data_folder(), report, files)
    print_result(f"wrote {path}", {"path": shown_name(path), "bytes": path.stat().st_size}, as_json=as_json)


@data_app.command()
def inchikeys(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("weights/qm9/inchikeys.npy"),
    as_json: Json = False,
) -> None:
    """Write the hashes of the InChIKeys of QM9, by which a generated molecule is found to be novel.

    Needs the data that `enflow data qm9` prepares. Takes some minutes on one core.
    """
    from enflow.model.training.data.inchikeys import write_inchikeys
    from enflow.model.training.data.qm9 import data_file

    with progress() as report:
        n_hashes, n_molecules = write_inchikeys(data_file(), out, report)
    facts = {"path": shown_name(out), "hashes": n_hashes, "molecules": n_molecules, "bytes": out.stat().st_size}
    print_result(f"wrote {out}: {n_hashes} hashes of {n_molecules} molecules", facts, as_json=as_json)


@data_app.command()
def particles(
    system: Annotated[list[str] | None, typer.Argument(help="dw4, lj13 [default: both].")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the files [default: $ENFLOW_DATA, or data].")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples.")] = 0,
    as_json: JsonLines = False,
) -> None:
    """Sample the particle systems of the paper by Hamiltonian Monte Carlo, and estimate their entropy by annealing.

    Writes dw4.npz and lj13.npz with the training, validation and test samples, split by chain, and beside each a JSON
    file with virial, split-R-hat, effective sample sizes, log Z and entropy. Takes some minutes on one core.
    """
    from enflow.model.training.data.particles import SYSTEMS, generate
    from enflow.model.training.data.qm9 import data_folder

    folder = out or data_folder()
    with progress() as report:
        for name in system or SYSTEMS:
            summary = generate(name, folder, seed, report)
            text = f"{name}: entropy {summary.entropy:.3f} +- {summary.entropy_error:.3f} nats"
            text += f", virial {summary.virial:.2f} +- {summary.virial_error:.2f}"
            print_result(text, asdict(summary), as_json=as_json)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="Configuration file, such as model/training/configs/qm9.json.")],
    run: Annotated[Path | None, typer.Option(help="Folder of the run [default: runs/NAME].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue exactly where the run stopped.")] = False,
    anneal: Annotated[
        int | None, typer.Option(min=1, help="Number of molecules over which the rate falls to zero; then end.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the weights at the end of the run or annealing.")] = None,
    device: Device = "auto",
    as_json: JsonLines = False,
) -> None:
    """Train a flow; the state is written every few minutes, and metrics.jsonl holds the learning curves.

    Needs the data that `enflow data qm9` prepares. Ctrl-C stops it at any time: --resume continues from the last
    written state, with the same molecules and the same noise as an uninterrupted run.
    """
    from enflow.model.training.config import read_config
    from enflow.model.training.export import export_state
    from enflow.model.training.run import ANNEALED_STATE, STATE
    from enflow.model.training.run import train as run_training

    settings = read_config(config)
    folder = run or Path("runs") / settings.name
    with progress() as report, says_what_is_kept(f"--resume continues from the last state that {folder} has"):
        for record in run_training(settings, folder, resume=resume, anneal=anneal, device=pick_device(device)):
            if as_json:
                typer.echo(json.dumps(record))
            note = ", ".join(
                f"{name} {record[name]}" for name in ("loss_x", "loss_h", "molecules_per_s") if name in record
            )
            report("molecules", record["passes"], settings.passes, note)
    if out is not None:
        state = folder / (STATE if anneal is None else ANNEALED_STATE)
        card = export_state(settings, state, out)
        print_result(f"wrote {out}", {"path": shown_name(out), "weights_sha256": card.weights_sha256}, as_json=as_json)


@app.command()
def evaluate(
    weights: Annotated[Path, typer.Argument(help="Folder with weights.safetensors and card.json.")],
    samples: Annotated[int, typer.Option(min=0, help="Number of molecules to generate.")] = 1000,
    molecules: Annotated[int, typer.Option(min=0, help="Number of test molecules to score.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all noise.")] = 0,
    tolerance: Annotated[
        float | None, typer.Option(min=1e-7, help="Tolerance of the solver [default: that of the card].")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Temperature of the samples, 0.1 to 2; a card has 1.")] = 1.0,
    refinements: Refinements = None,
    divergence: Annotated[Divergence, typer.Option(help="hutchinson (an estimate) or exact (slow).")] = "hutchinson",
    probes: Annotated[int, typer.Option(min=1, help="Number of probes of the estimate per molecule.")] = 1,
    draws: Annotated[int, typer.Option(min=1, help="Number of draws of the dequantizer per molecule.")] = 1,
    posebusters: Annotated[int, typer.Option(min=0, help="Number of samples for PoseBusters, an extra.")] = 0,
    curve: Annotated[int, typer.Option(min=0, help="Number of molecules per point of quality against cost.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the results [default: runs/evaluate/NAME-HASH].")] = None,
    write_card: Annotated[
        bool, typer.Option("--write-card", help="Write the results beside the weights, too.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Number of threads of PyTorch; more than 1 gain little.")] = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a model: stability, validity, uniqueness, novelty of samples; NLL of test molecules; quality over cost.

    Every finished molecule is kept: the same command continues where an earlier one stopped, and larger numbers add to
    its results. On a free core 1,000 samples take one to two minutes and 1,000 scores ten; two commands, with --samples
    0 and with --molecules 0, use two cores. evaluation.json has the metrics, evaluation.html shows them. --write-card
    writes them beside the weights and into the card, and percentiles.json, with which the service ranks an NLL.
    """
    import torch

    from enflow.model.card import read_card
    from enflow.model.checkpoint import load_molecules
    from enflow.model.config import TOLERANCES
    from enflow.model.training.data.qm9 import data_file
    from enflow.model.training.evaluation import evaluate as evaluation
    from enflow.model.training.evaluation import solver_curve
    from enflow.model.training.evaluation.publish import publish, publish_card
    from enflow.model.training.evaluation.summary import table

    torch.set_num_threads(threads)
    card = read_card(weights)
    if write_card and (temperature != 1 or refinements is not None):
        raise ConfigError("found --write-card with a temperature or refinements; expected those of the model")
    tolerance = tolerance or card.metrics.get("tolerance", TOLERANCES["standard"])
    options = seed, tolerance, divergence, probes, draws, posebusters, temperature, refinements
    settings = evaluation.EvaluationConfig(samples, molecules, *options)
    folder = out or Path("runs") / "evaluate" / f"{card.name}-{card.weights_sha256[:8]}"
    flow = load_molecules(weights, pick_device(device))
    with progress() as report, says_what_is_kept(f"{folder} has what was finished, and the same command continues"):
        result = evaluation.evaluate(flow, card.weights_sha256, data_file(), folder, settings, report)
        quality = solver_curve.CurveConfig(curve, seed)
        points = solver_curve.curve(flow, card.weights_sha256, folder, quality, report) if curve else []
    command = shown_name(shlex.join(["enflow", *sys.argv[1:]]))
    publish(folder, card, command, result, points)
    if write_card:
        publish(weights, card, command, result, points)
        publish_card(weights, result)
    print_result(table(result.metrics), result.metrics | ({"curve": points} if points else {}), as_json=as_json)


@app.command(name="compile")
def compile_velocities(
    weights: Annotated[
        list[str] | None, typer.Argument(help="Folders with weights, or names of bundled ones [default: all bundled].")
    ] = None,
    as_json: JsonLines = False,
) -> None:
    """Compile the velocities of weights to machine code of this processor, which every other command then uses.

    Needs a C++ compiler and about a minute for each. The code is kept in $ENFLOW_CACHE [default: the folder enflow
    among the user's caches], for one version of the weights, of PyTorch and of the processor.
    """
    from enflow.model.card import bundled_names
    from enflow.model.checkpoint import compile_weights

    names = weights or bundled_names()
    with progress() as report:
        for done, name in enumerate(names):
            report("models", done, len(names), name)
            path = compile_weights(name)
            print_result(f"{name}: {path}", {"weights": shown_name(name), "path": shown_name(path)}, as_json=as_json)
        report("models", len(names), len(names))


@app.command()
def import_en_flows(
    directory: Annotated[Path, typer.Argument(help="Folder with flow.npy and dequantizer.npy.")],
    out: Annotated[Path, typer.Argument(help="Folder for weights.safetensors and card.json.")],
    as_json: Json = False,
) -> None:
    """Convert the QM9 model that the authors of E-NF released to weights of Enflow.

    Reads tensors only; the pickle file beside them is never opened.
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
    print_result(f"wrote {out}", {"path": shown_name(out), "weights_sha256": card.weights_sha256}, as_json=as_json)
