"""The commands of the particle systems: `enflow particles table` and `enflow particles evaluate`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from enflow.model.cli.options import Json, print_result, says_what_is_kept
from enflow.model.progress import progress

particles_app = typer.Typer(
    help="The particle systems of the paper: six models, their likelihoods and their samples.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[Literal["dw4", "lj13", "qm9_positional"], typer.Argument(help="dw4, lj13 or qm9_positional.")]


@particles_app.command()
def table(
    system: Name,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A model of the paper [default: all six], or vector.")
    ] = None,
    sizes: Annotated[
        list[int] | None, typer.Option("--samples", help="Number of training samples [default: those of the paper].")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per cell.")] = 3,
    steps: Annotated[
        int, typer.Option(min=0, help="Greatest number of steps of flow matching; 0 = likelihood alone.")
    ] = 4000,
    likelihood_steps: Annotated[
        int, typer.Option(min=0, help="Greatest number of steps of likelihood, after flow matching.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 256,
    test_samples: Annotated[
        int, typer.Option("--test", min=2, help="Number of test samples to score with the exact divergence.")
    ] = 1000,
    tolerance: Annotated[float, typer.Option(min=1e-9, help="Tolerance of the solver.")] = 1e-5,
    folder: Annotated[Path, typer.Option(help="Folder of the finished cells and their weights.")] = Path(
        "runs/particles"
    ),
    threads: Annotated[int, typer.Option(min=1, help="Number of threads of PyTorch.")] = 1,
    as_json: Json = False,
) -> None:
    """Fill the table of a system: test NLL by model and number of training samples.

    Finished cells are kept: the same command continues where an earlier one stopped. It writes SYSTEM.json and
    SYSTEM.svg into the folder, with the entropy, which is the lower bound of every NLL, and the published values.
    """
    import torch

    from enflow.model.training.data.particles import load
    from enflow.model.training.experiments import particle_benchmark, particle_cells, particle_report

    torch.set_num_threads(threads)
    data = load(system)
    budget = particle_cells.Budget(steps, likelihood_steps, batch_size, test_samples, tolerance)
    wanted = particle_cells.cells(
        system, models or particle_cells.MODELS, sizes or particle_cells.SIZES[system], seeds, budget.objective
    )
    with progress() as report, says_what_is_kept(f"{folder} has what was finished, and the same command continues"):
        report(f"cells of {system}", 0, len(wanted))
        for done, _ in enumerate(particle_benchmark.train_cells(wanted, budget, data, folder, report), start=1):
            report(f"cells of {system}", done, len(wanted))
    written = particle_report.publish(folder, data)
    print_result(particle_report.text(written), written, as_json=as_json)


@particles_app.command()
def evaluate(
    weights: Annotated[Path, typer.Argument(help="Folder with weights.safetensors and card.json.")],
    samples: Annotated[
        int, typer.Option(min=2, help="Number of samples to generate for the effective sample size.")
    ] = 10_000,
    test_samples: Annotated[
        int, typer.Option("--test", min=0, help="Number of test samples to score; 0 keeps the NLL of the card.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples.")] = 0,
    tolerance: Annotated[float, typer.Option(min=1e-9, help="Tolerance of the solver.")] = 1e-5,
    out: Annotated[
        Path | None, typer.Option(help="Write weights and card, with these metrics, to this folder.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Number of threads of PyTorch.")] = 1,
    as_json: Json = False,
) -> None:
    """Measure a model of particles: test NLL and its lower bound, pair distances, effective sample size.

    Needs the samples that `enflow data particles` makes. No importance weight is clipped.
    """
    import torch

    from enflow.model.card import read_card
    from enflow.model.checkpoint import load_particles, save
    from enflow.model.training.data.particles import load
    from enflow.model.training.evaluation import particle_metrics

    torch.set_num_threads(threads)
    card, flow = read_card(weights), load_particles(weights)
    data = load(card.dataset.name)
    metrics: dict[str, float | None] = {"entropy_floor": data.entropy, "entropy_floor_se": data.entropy_error}
    if test_samples:
        nll, error = particle_metrics.score(flow, data, test_samples, tolerance)
        metrics |= {"test_nll": nll, "test_nll_se": error, "test_samples": test_samples, "tolerance": tolerance}
    metrics["distance_jsd"] = particle_metrics.distance_jsd(flow, data, samples, seed, tolerance)
    if data.potential is not None:
        with progress() as report:
            ess = particle_metrics.reweighted(flow, data.potential, samples, seed, tolerance, report)
        metrics |= asdict(ess)
    card = replace(card, metrics=card.metrics | metrics)
    if out is not None:
        save(flow, out, replace(card, name=out.name))
    text = "\n".join(f"{name:20} {value}" for name, value in card.metrics.items())
    print_result(text, card.metrics, as_json=as_json)
