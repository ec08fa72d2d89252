"""Functions that all benchmarks share: alternating measurement, statistics, and the publication of results.

Candidates run in turns (A B A B) in one process, so that a change of the machine's speed affects all of them.
"""

import gc
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
QUICK = "--quick" in sys.argv
"""A benchmark with fewer rounds prints its result and changes neither results nor docs."""


def by_turns(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Measure candidates in turns.

    Args:
        candidates: the functions, by name.
        rounds: number of measured rounds, after one unmeasured round.

    Returns:
        Processor seconds of each candidate in each round, (rounds,).
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for measured in [False] + [True] * rounds:
        for name, run in candidates.items():
            gc.collect()
            begin = time.process_time()
            run()
            if measured:
                seconds[name].append(time.process_time() - begin)
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(slow: NDArray[np.float64], fast: NDArray[np.float64]) -> dict[str, float]:
    """Return median and quartiles of the speed-up, round by round."""
    low, middle, high = np.quantile(slow / fast, [0.25, 0.5, 0.75])
    return {"median": round(float(middle), 2), "low": round(float(low), 2), "high": round(float(high), 2)}


def machine() -> dict[str, object]:
    """Return the processor, the number of threads and the versions of a measurement."""
    cpu = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if "model name" in line]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write_results(name: str, title: str, columns: list[str], rows: list[list[str]], facts: Mapping[str, Any]) -> None:
    """Print a table and one line of JSON, and write the line to results/NAME.json unless --quick is given.

    Args:
        name: name of the benchmark.
        title: title of the table.
        columns: heads of the columns.
        rows: cells of the table.
        facts: content of the JSON line, besides the name and the machine.
    """
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)
    line = json.dumps({"benchmark": name, **facts, "machine": machine()})
    print(line)
    if not QUICK:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(line + "\n")


def write_section(page: Path, name: str, section: str) -> None:
    """Replace the Markdown of a page between `<!-- name -->` and `<!-- end -->` unless --quick is given."""
    whole = page.read_text()
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(whole):
        raise SystemExit(f"{page} has no section {name!r}; expected <!-- {name} --> and <!-- end -->")
    if not QUICK:
        page.write_text(pattern.sub(lambda match: f"{match[1]}{section}\n{match[2]}", whole))
