"""What an operator asks of a running service: over its own socket, and over HTTP."""
