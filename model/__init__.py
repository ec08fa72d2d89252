"""Equivariant normalizing flows for molecules: the density, with no web in sight."""
