"""The package service.protocol."""
