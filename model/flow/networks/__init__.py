"""The package model.flow.networks."""
