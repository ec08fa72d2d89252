"""The package model.training.experiments."""
