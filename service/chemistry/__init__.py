"""The package service.chemistry."""
