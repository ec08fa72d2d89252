"""Particles and their scores as response documents: positions and an energy instead of elements and bonds."""

import math
from importlib.metadata import version
from typing import Any

import numpy as np

from enflow.model.chem.bonds import Bonds
from enflow.model.chem.io.xyz import write_xyz
from enflow.model.chem.molecule import Molecule
from enflow.model.chem.particle_systems import ParticleSystem
from enflow.service.model_card import ModelCard
from enflow.service.protocol.events import Frame, Scored
from enflow.service.rendering.molecules import RenderedMolecule, SampleResult, ScoreResult, trajectory_fields
from enflow.service.schemas.responses import ParticleFrameOut, ParticlePartsOut, ParticleScoreOut, ParticlesOut


def no_bonds(molecule: Molecule) -> Bonds:
    """Return the bonds of particles: none, and every particle is a fragment."""
    return Bonds("ok", version("rdkit"), charges=(0,) * molecule.n_atoms, fragments=molecule.n_atoms)


def render_particle_sample(
    card: ModelCard, system: ParticleSystem, result: SampleResult
) -> RenderedMolecule[ParticlesOut]:
    """Return generated particles as every response shows them."""
    molecule = _with_energy(system, result.molecule, result.properties(card))
    frames: dict[str, Any] = {"frames": [render_particle_frame(system, each) for each in result.sampled.frames]}
    document = ParticlesOut(
        **_structure_fields(system, molecule),
        **result.fields(),
        **(_score_fields(system, result.scored, molecule) if result.scored else {}),
        **(frames if result.sampled.frames else {}),
    )
    return RenderedMolecule(molecule, result.report.bonds, None, document)


def render_particle_score(
    card: ModelCard, system: ParticleSystem, result: ScoreResult
) -> RenderedMolecule[ParticleScoreOut]:
    """Return scored particles as every response shows them."""
    molecule = _with_energy(system, result.molecule, result.properties(card))
    document = ParticleScoreOut(
        **_structure_fields(system, molecule), **result.fields(), **_score_fields(system, result.scored, molecule)
    )
    return RenderedMolecule(molecule, result.report.bonds, None, document)


def render_particle_frame(system: ParticleSystem, frame: Frame) -> ParticleFrameOut:
    """Return a state along the path of particles."""
    positions = np.round(system.coordinates(frame.positions), 4).tolist()
    return ParticleFrameOut(t=round(frame.t, 6), nfe=frame.nfe, positions=positions)


def _structure_fields(system: ParticleSystem, molecule: Molecule) -> dict[str, Any]:
    return {
        "kind": "particles",
        "n_particles": molecule.n_atoms,
        "positions": system.coordinates(molecule.positions).tolist(),
        "energy": _energy(system, molecule),
        "xyz": write_xyz([molecule]),
    }


def _score_fields(system: ParticleSystem, scored: Scored, molecule: Molecule) -> dict[str, Any]:
    """Return the numbers of a score; `log_weight` is that under exp(-energy), up to a constant."""
    energy = _energy(system, molecule)
    return {
        "nll": scored.nll,
        "log_prob": -scored.nll,
        "std_error": scored.std_error,
        "parts": ParticlePartsOut(base=scored.parts["base"], divergence=scored.parts["divergence"]),
        "log_weight": None if energy is None else scored.nll - energy,
        **trajectory_fields(scored),
    }


def _with_energy(system: ParticleSystem, molecule: Molecule, properties: dict[str, object]) -> Molecule:
    facts = {**molecule.properties, **properties, "energy": _energy(system, molecule)}
    return system.molecule(molecule.positions, molecule.name, facts)


def _energy(system: ParticleSystem, molecule: Molecule) -> float | None:
    """Return the energy; None where no potential is known, or where it is not finite: JSON has no infinity."""
    energy = system.energy(molecule.positions)
    return energy if energy is not None and math.isfinite(energy) else None
