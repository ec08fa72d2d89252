"""The package service.api."""
