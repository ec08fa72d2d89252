"""The continuous normalizing flow in torch: base distributions, velocities, solvers, likelihoods and their estimates.

The package imports `model.batch`, `model.chem`, `model.config` and `model.errors`, and nothing of training or of the
service. Begin with `molecule_flow.MoleculeFlow` (sample, encode, decode, log_prob), then `components` (the maps without
a solver), `dynamics` (the velocities), `ode.batched_solver` (the paths) and `likelihood_estimator` (the scores).
"""
