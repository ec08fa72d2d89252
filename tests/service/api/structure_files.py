"""The texts of structure files, good and bad."""

METHANE = "5\nmethane\nC 0 0 0\nH .63 .63 .63\nH -.63 -.63 .63\nH -.63 .63 -.63\nH .63 -.63 -.63\n"
WATER = "3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
XENON = "1\n\nXe 0 0 0\n"
BROKEN = "2\n\nC 0 0 0\nO 1,5 0 0\n"
MOLFILE = """water
  made by hand

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 O   0  0  0  0  0  0
    0.9600    0.0000    0.0000 H   0  0  0  0  0  0
   -0.2400    0.9300    0.0000 H   0  0  0  0  0  0
  1  2  1  0
  1  3  1  0
M  END
"""
