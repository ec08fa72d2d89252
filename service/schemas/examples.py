"""Example documents for the OpenAPI description; the tests send the requests and validate the responses."""

METHANE = "5\nmethane\nC 0 0 0\nH .63 .63 .63\nH -.63 -.63 .63\nH -.63 .63 -.63\nH .63 -.63 -.63\n"
TILTED = METHANE.replace("methane", "a tilted methane").replace(".63 .63 .63", ".6 .65 .64")

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

EVENT = {"event": "progress", "data": '{"event": "progress", "queue": {"ahead": 0, "running": 1}, "eta_s": 0.4}'}
EVENT_LINE = EVENT["data"] + "\n"
SAMPLE_RESPONSE: dict = {}
LIKELIHOOD_RESPONSE: dict = {}
WALK_RESPONSE: dict = {}
MODELS_RESPONSE: dict = {}
HEALTH_RESPONSE: dict = {}
