"""The package model.chem.io."""
