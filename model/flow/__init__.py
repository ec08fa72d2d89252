"""The continuous normalizing flow, in torch."""
