"""Fake backends: servers that do, at each step, whatever a test asks of them."""
