"""Example documents for the OpenAPI description; the tests send the requests and validate the responses."""

from collections.abc import Mapping
from typing import Any

from enflow.service.settings import RequestLimits

METHANE = "5\nmethane\nC 0 0 0\nH .63 .63 .63\nH -.63 -.63 .63\nH -.63 .63 -.63\nH .63 -.63 -.63\n"
TILTED = METHANE.replace("methane", "a tilted methane").replace(".63 .63 .63", ".6 .65 .64")

SAMPLE_REQUESTS: list[Any] = [
    {"n_molecules": 4, "seed": 7},
    {"n_atoms": [5, 9, 18], "seed": 1, "tolerance": "draft"},
    {"n_molecules": 2, "n_atoms": 12, "only": "valid", "seed": 3},
    {"n_molecules": 4, "unique": True, "where": {"qed": [0.4, None]}, "sort": "-qed", "seed": 3},
    {"formula": "C7H10O2", "seed": 5},
    {"fragment": {"format": "xyz", "data": METHANE}, "attach": [2], "n_atoms": 9, "seed": 5},
    {"model": "lj13", "seed": 5},
]

WATER_SDF = """water
  Enflow          3D

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.1193 O   0  0
    0.0000    0.7632   -0.4770 H   0  0
    0.0000   -0.7632   -0.4770 H   0  0
  1  2  1  0
  1  3  1  0
M  END
$$$$
"""

FILES = {
    "chemical/x-xyz": (METHANE, METHANE + TILTED),
    "chemical/x-mdl-sdfile": (WATER_SDF, 2 * WATER_SDF),
    "chemical/x-daylight-smiles": ("CCO ethanol\n", "CCO ethanol\nCOC dimethyl ether\n"),
}
"""By content type: a file of one structure, and a file of two structures with the same number of atoms."""

_SHA256 = "5e8848c2f6b1d0a7393d0cf1c1b6ad0e6b8a0f4f5b8ce2f7a1f4f8a9f1a2b3c4"
_MODEL = {"name": "qm9", "sha256": _SHA256}
_USAGE = {"queue_ms": 0.4, "integrate_ms": 310.2, "bonds_ms": 6.1, "nfe": 74}
_BONDS = {
    "status": "ok",
    "method": "DetermineBonds, covalent radii x 1.15",
    "reason": None,
    "charge": 0,
    "fragments": 1,
    "rdkit": "2026.09.1",
}
_WATER = {
    "kind": "molecule",
    "n_atoms": 3,
    "formula": "H2O",
    "smiles": "O",
    "xyz": "3\nwater\nO 0 0 0.1193\nH 0 0.7632 -0.477\nH 0 -0.7632 -0.477\n",
    "sdf": WATER_SDF,
    "bonds": _BONDS,
    "valid": True,
    "stable": True,
    "stable_reason": None,
    "atom_stability": 1.0,
    "nfe": 74,
    "solver_status": "success",
}
_SCORE = {
    "nll": -6.57,
    "nll_per_atom": -2.19,
    "std_error": 0.4,
    "parts": {"base": 21.4, "divergence": -30.1, "dequantizer": -2.3, "n_atoms": 4.43},
    "atom_base": [6.1, 7.7, 7.6],
    "path": [(0.0, -21.4), (1.0, 8.7)],
    "percentile": 12.5,
    "divergence": "exact",
    "probes": 0,
    "draws": 2,
    "quadrature_error": 0.02,
}

EVENT = {"event": "progress", "data": '{"event": "progress", "queue": {"ahead": 0, "running": 1}, "eta_s": 0.4}'}
EVENT_LINE = EVENT["data"] + "\n"
_SAMPLE = {
    "seed": 7,
    "model": _MODEL,
    "tolerance": 0.001,
    "temperature": 1.0,
    "refinements": 4,
    "molecules": [{"index": 0, "seed": 7, **_WATER}],
    "failed": [],
    "attempts": {"tried": 1, "found": 1, "rejected": {}, "reasons": {}},
    "usage": _USAGE,
}
_WALK = {
    "seed": 0,
    "model": _MODEL,
    "tolerance": 1e-6,
    "refinements": 0,
    "molecules": [{"index": 0, "seed": 0, **_WATER, "distance": 0.0}],
    "failed": [],
    "usage": _USAGE,
}
_VARIATIONS = {
    **{name: value for name, value in _SAMPLE.items() if name != "temperature"},
    "refinements": 0,
    "molecules": [{"index": 0, "seed": 7, **_WATER, "distance": 0.02, "kept": "graph"}],
}
_LIKELIHOOD = {
    "seed": 0,
    "model": _MODEL,
    "tolerance": 0.001,
    "results": [{"index": 0, "name": "water", "data": {}, "file": "water.sdf", **_WATER, **_SCORE}],
    "usage": _USAGE,
}
_JOB = {
    "id": "5f0c2a7be1d94c0f8a3b6d2e9c4f1a70",
    "kind": "sample",
    "state": "running",
    "model": _MODEL,
    "seed": 7,
    "n_molecules": 2000,
    "done": 640,
    "failed": 2,
    "tried": 712,
    "rate": 21.5,
    "time_left_s": 63.3,
    "created": "2026-01-01T12:00:00+00:00",
    "ended": None,
    "expires": None,
    "detail": "",
    "results": "/jobs/5f0c2a7be1d94c0f8a3b6d2e9c4f1a70/results",
}
_JOB_RESULTS = {
    "id": _JOB["id"],
    "state": "running",
    "seed": 7,
    "model": _MODEL,
    "tolerance": 0.001,
    "temperature": 1.0,
    "refinements": 4,
    "first": 0,
    "next": 1,
    "molecules": _SAMPLE["molecules"],
    "failed": [],
}
_MODELS = {"models": [{"name": "qm9", "kind": "molecules", "weights_sha256": _SHA256}]}
_HEALTH = {
    "status": "ok",
    "reason": "",
    "step_age_s": 0.1,
    "queue": {"waiting": 0, "running": 1},
    "device": "cpu",
    "models": {"qm9": "ready"},
}
_LIMITS = {**RequestLimits().model_dump(), "max_atoms_by_model": {"qm9": 29}, "kind_by_model": {"qm9": "molecules"}}

RESPONSES: Mapping[str, Mapping[str, Any]] = {
    "sample": _SAMPLE,
    "score": _LIKELIHOOD,
    "interpolate": _WALK,
    "variations": _VARIATIONS,
    "add_job": _JOB,
    "list_jobs": {"jobs": [_JOB]},
    "job": _JOB,
    "delete_job": _JOB,
    "job_results": _JOB_RESULTS,
    "models": _MODELS,
    "limits": _LIMITS,
    "live": _HEALTH,
    "ready": _HEALTH,
}
"""A document of each response, by the name of its operation."""
