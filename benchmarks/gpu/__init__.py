"""The command for a machine with a GPU: `python -m benchmarks.gpu --seconds 540 --out DIR`.

It checks the path on a GPU against references that a CPU made, then trains for the rest of the time, and writes the
states and samples to DIR, in at most eight files below 16 MB each for networks of up to five million parameters. It
needs torch, numpy, scipy, pydantic, safetensors and torchdiffeq, and the data that `enflow data qm9` prepares.
`python -m benchmarks.gpu.references` makes the references beforehand, and `python -m benchmarks.gpu.judge DIR`
evaluates the result; these two run elsewhere. Begin reading with `stages`.
"""
