"""Enflow: E(n) equivariant normalizing flows for 3D molecules.

This module is the public Python API:

    import enflow

    flow = enflow.load("qm9")
    molecules = flow.sample([12, 12, None], seed=0)
    scores = flow.log_prob(molecules)

    with enflow.Client() as client:  # the same from a running service
        molecules = client.sample(n_molecules=3, seed=0)

`enflow.model` is the density and needs no web framework. `enflow.service` serves it over HTTP and imports
`enflow.model`, never the reverse. Begin reading at `enflow.model.flow.molecule_flow`. A name is imported when it is
first used, so that `import enflow` loads neither PyTorch nor RDKit.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enflow.model.checkpoint import import_en_flows, load
    from enflow.model.chem.molecule import Molecule
    from enflow.model.chem.table import to_dataframe
    from enflow.model.errors import EnflowError
    from enflow.model.flow.molecule_flow import MoleculeFlow
    from enflow.model.flow.particle_flow import ParticleFlow
    from enflow.model.selection import Selection, select
    from enflow.service.http_client.client import Client
    from enflow.service.http_client.errors import ServiceError

__version__ = "0.2.0"

__all__ = [
    "Client",
    "EnflowError",
    "Molecule",
    "MoleculeFlow",
    "ParticleFlow",
    "Selection",
    "ServiceError",
    "__version__",
    "import_en_flows",
    "load",
    "select",
    "to_dataframe",
]

_HOMES = {
    "Client": "enflow.service.http_client.client",
    "EnflowError": "enflow.model.errors",
    "Molecule": "enflow.model.chem.molecule",
    "MoleculeFlow": "enflow.model.flow.molecule_flow",
    "ParticleFlow": "enflow.model.flow.particle_flow",
    "Selection": "enflow.model.selection",
    "ServiceError": "enflow.service.http_client.errors",
    "import_en_flows": "enflow.model.checkpoint",
    "load": "enflow.model.checkpoint",
    "select": "enflow.model.selection",
    "to_dataframe": "enflow.model.chem.table",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'enflow' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
