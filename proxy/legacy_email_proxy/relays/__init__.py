"""What stands between the SMTP leg and a relay plugin, one subject a module, each of them a relay to those above it."""
