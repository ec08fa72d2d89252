"""The package model.cli."""
