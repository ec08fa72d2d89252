"""Structures that the description of the API shows; the tests send them."""

METHANE = "5\nmethane\nC 0 0 0\nH .63 .63 .63\nH -.63 -.63 .63\nH -.63 .63 -.63\nH .63 -.63 -.63\n"
TILTED = METHANE.replace("methane", "a tilted methane").replace(".63 .63 .63", ".6 .65 .64")

_WATER = """water
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
    "chemical/x-mdl-sdfile": (_WATER, 2 * _WATER),
    "chemical/x-daylight-smiles": ("CCO ethanol\n", "CCO ethanol\nCOC dimethyl ether\n"),
}
"""Content type -> a file of one structure, and of two with the same number of atoms."""
