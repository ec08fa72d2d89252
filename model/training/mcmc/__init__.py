"""The package model.training.mcmc."""
