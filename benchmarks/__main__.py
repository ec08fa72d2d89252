"""The command that runs every benchmark, one after the other: `python -m benchmarks [--quick]`."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        runpy.run_module(f"benchmarks.{path.stem}", run_name="__main__")
