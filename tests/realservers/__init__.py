"""Real servers for the tests: Dovecot, Postfix, PostgreSQL, and Authlib's, on free ports of 127.0.0.1, stopped again.

A fake server shows that the proxy copes with what we thought of; these show that it works with what people run. Nothing
here touches the machine's own servers: each of ours has its own configuration, folders and processes.
"""
