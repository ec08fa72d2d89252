"""The package model.flow.ode."""
