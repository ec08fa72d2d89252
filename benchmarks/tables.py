"""The generated tables of docs/, written from benchmarks/results and the cards without measuring: `make docs`."""

import json
from typing import Any

from benchmarks import (
    bench_coverage,
    bench_inverse,
    bench_likelihood,
    fragments,
    nll_moves,
    own_samples,
    particles,
    trials,
)
from benchmarks.measure import DOCS, RESULTS, write_section


def result(name: str) -> dict[str, Any]:
    """Return the last result of a benchmark."""
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return document


def tables() -> dict[tuple[str, str], str]:
    """Return every generated table in Markdown, by its page and its place on the page."""
    systems = {path.stem.removeprefix("particles_"): result(path.stem) for path in RESULTS.glob("particles_*.json")}
    trained = result("trials")["trials"]
    measured = (RESULTS / "fragments.json").is_file()
    return {
        ("training.md", "ablation"): trials.section(trained),
        ("training.md", "trials"): trials.tables(trained),
        ("science.md", "inverse"): bench_inverse.section(result("inverse")["kinds"]),
        ("science.md", "coverage"): bench_coverage.section(result("coverage")["molecules"]),
        ("performance.md", "likelihood"): bench_likelihood.section(result("likelihood_estimate")["molecules"]),
        ("science.md", "own samples"): own_samples.section(result("own_samples")["kinds"]),
        ("training.md", "nll moves"): nll_moves.section(result("nll_moves")["moves"]),
        **({("science.md", "fragments"): fragments.section(result("fragments")["tasks"])} if measured else {}),
        **{("particles.md", place): table for place, table in particles.sections(systems).items()},
    }


if __name__ == "__main__":
    for (page, place), table in tables().items():
        write_section(DOCS / page, place, table)
