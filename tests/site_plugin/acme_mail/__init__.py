"""Acme's plugins: every message that a device sends is archived, and devices read the notices in a folder."""
