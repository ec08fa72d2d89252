"""The package model.flow.exact_trace."""
