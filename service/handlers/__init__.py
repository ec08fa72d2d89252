"""The package service.handlers."""
