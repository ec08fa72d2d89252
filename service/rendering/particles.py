"""Particles as the API and the shell show them: positions and an energy for elements, bonds and verdicts."""

from importlib.metadata import version
from typing import Any

import numpy as np

from enflow.model.chem.bonds import Bonds
from enflow.model.chem.io.xyz import write_xyz
from enflow.model.chem.molecule import Molecule
from enflow.model.chem.particle_systems import ParticleSystem
from enflow.service.protocol.events import Frame, Scored

KIND = "particles"


def unbound(molecule: Molecule) -> Bonds:
    """Of particles: no bonds, and none that are missing."""
    return Bonds("ok", version("rdkit"), charges=(0,) * molecule.n_atoms, fragments=molecule.n_atoms)


def cluster_fields(system: ParticleSystem, molecule: Molecule) -> dict[str, Any]:
    """What every answer says of particles; the energy is in units of the temperature, null where nobody knows it."""
    return {
        "kind": KIND,
        "n_particles": molecule.n_atoms,
        "positions": system.coordinates(molecule.positions).tolist(),
        "energy": system.energy(molecule.positions),
        "xyz": write_xyz([molecule]),
    }


def cluster_scores(system: ParticleSystem, scored: Scored, molecule: Molecule) -> dict[str, Any]:
    """The numbers of a score; `log_weight` is that of the sample under exp(-energy), up to a constant."""
    energy = system.energy(molecule.positions)
    return {
        "nll": scored.nll,
        "log_prob": -scored.nll,
        "std_error": scored.std_error,
        "parts": {name: scored.parts[name] for name in ("base", "divergence")},
        "log_weight": None if energy is None else scored.nll - energy,
        "atom_base": [round(share, 3) for share in scored.atoms],
        "path": [[round(t, 4), round(log_density, 3)] for t, log_density in sorted(scored.path)],
    }


def cluster_frame(system: ParticleSystem, frame: Frame) -> dict[str, Any]:
    """A frame of the particles' way."""
    positions = np.round(system.coordinates(frame.positions), 4).tolist()
    return {"t": round(frame.t, 6), "nfe": frame.nfe, "positions": positions}
