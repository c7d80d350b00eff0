"""Several accounts behind one proxy: the file that names them, the rules that choose one, and the routers that obey.

Without ``ACCOUNTS_FILE`` nothing of this stands between a session and its plugin.
"""
