"""Attacks on the real command, with an honest client of another address beside each of them.

`python tests/abuse/run.py` prints what an attack costs the honest client, in seconds, and the process, in memory,
descriptors and log. Every attack is a small program that is bounded in time and in number, and goes to loopback only.
"""
