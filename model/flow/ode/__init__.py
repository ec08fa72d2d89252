"""Solvers of ordinary differential equations and integrals along their paths.

Two adaptive methods solve rows of their own: `adams` samples, and `dopri5` (Dormand-Prince) encodes and solves the path
of a likelihood; `methods` chooses. `torchdiffeq_solver` gives gradients and is the independent check. The package
imports `velocity` and `divergence` of `model.flow`, and no network. Begin with `adams.step`, then
`batched_solver.solve_batched` (continuous batching) and `quadrature` (integrals along a path).
"""
