"""Hours of mixed work with the real command while servers and proxies die: `python tests/soak/run.py MINUTES`.

Each message carries an id, so at the end every one of them can be accounted for: what was accepted has arrived, nothing
arrived that a device was told to send again, and POP3 deleted what it was asked to delete and nothing else.
"""
