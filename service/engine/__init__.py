"""The package service.engine."""
