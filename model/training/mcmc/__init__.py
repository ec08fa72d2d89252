"""Sampling of particle systems: potentials, Hamiltonian Monte Carlo, and annealed importance sampling.

`enflow data particles` makes the data sets of DW4 and LJ13 with it. The package imports `enflow.model.chem` for the
energies and `enflow.model.progress`, and nothing of the rest of training. Begin reading with `potentials`, then `hmc`.
"""
