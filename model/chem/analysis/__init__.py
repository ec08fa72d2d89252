"""The package model.chem.analysis."""
