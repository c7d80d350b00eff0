"""Acme's plugins: devices write to Acme only, every message is archived, and devices read the notices in a folder."""
