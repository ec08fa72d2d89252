"""One molecule: elements, bonds, file formats and metrics, in numpy and RDKit."""
