"""The density: equivariant normalizing flows for molecules, from files of atoms to weights on disk.

The package imports nothing of `enflow.service` and no web framework. Inside, the layers are, from the top: `cli`;
`training`; `checkpoint`, `selection`, `progress`; `en_flows`; `flow`; `batch`; `chem`; `card`; `config`; `errors`,
`files`, `qm9`. Begin with `checkpoint.load`, which gives a `flow.molecule_flow.MoleculeFlow` with `sample` and
`log_prob`; `chem.molecule.Molecule` is the type that goes in and out.
"""

import os

# Set before anything imports torch: OpenMP's threads sleep between two operations instead of spinning. On two cores
# that other programs use as well, spinning made a product of 1500 x 128 take 42 ms instead of 0.7 ms (torch 2.13.0),
# and an engine with two threads did not start in three minutes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
