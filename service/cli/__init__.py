"""The package service.cli."""
