"""Training and evaluation of a flow."""
