"""The package service.client."""
