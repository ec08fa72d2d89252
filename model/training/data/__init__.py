"""The package model.training.data."""
