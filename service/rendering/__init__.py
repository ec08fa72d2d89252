"""The package service.rendering."""
