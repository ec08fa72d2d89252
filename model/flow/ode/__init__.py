"""Solvers of ordinary differential equations and integrals along their paths.

The per-row Dormand-Prince method (`dopri5`) serves every request; `torchdiffeq_solver` gives gradients and is the
independent check. The package imports `velocity` and `divergence` of `model.flow`, and no network. Begin with
`dopri5.step`, then `batched_solver.solve_batched` (continuous batching) and `quadrature` (integrals along a path).
"""
