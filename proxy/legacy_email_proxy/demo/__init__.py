"""What the ``demo`` command runs behind the proxy: an IMAPS and an SMTPS server in this process, one mailbox in memory.

Needs the extra ``demo`` (pymap, trustme); only the command imports it.
"""
