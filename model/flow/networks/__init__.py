"""The networks inside the dynamics: equivariant graph networks, a plain graph network and central forces.

The package imports `model.config` and `model.flow.geometry` alone. Begin with `egnn.EGNN`, then read
`vector_egnn.VectorEGNN`, the network of the bundled weights. `inference_ops` holds the fast operations of both.
"""
