"""The command that runs the benchmarks, one after the other: `python -m benchmarks [--quick]`.

They are the modules whose names begin with `bench_`. With --quick they have fewer rounds and write no results.
"""

import runpy
from pathlib import Path

if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        runpy.run_module(f"benchmarks.{path.stem}", run_name="__main__")
