"""The benchmarks: each module measures ratios in one run, prints a table, and writes one line of JSON to results/.

`python -m benchmarks` runs every `bench_*` module; the other modules are experiments with a command each. They may
import `enflow` and `tests`. Begin reading with `measure`.
"""
