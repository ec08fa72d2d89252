"""The flow as a web service."""
