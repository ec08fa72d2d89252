"""The package service.schemas."""
