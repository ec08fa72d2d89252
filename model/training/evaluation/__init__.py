"""The package model.training.evaluation."""
