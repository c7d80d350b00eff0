"""Several accounts behind one proxy: the file that names them, the rules that choose one, and a router for each leg.

A router looks like a plugin to its leg and passes each session on to the plugin of an account, so no leg knows how many
accounts there are. Without ``ACCOUNTS_FILE`` none of this is in use.
"""
