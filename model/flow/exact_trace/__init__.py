"""The exact trace of the Jacobian of an equivariant network, by hand-written derivatives of its layers.

The package imports `model.flow.networks` and `model.flow.geometry`. Begin with `trace.trace`, then `layers` (the
derivative of a layer) and `ops` (the operations inside it).
"""
