"""Several accounts behind one proxy: the file that names them, the rules that choose one, and the routers that obey.

A router is a plugin to the legs and a core to the plugins: no leg knows whether there is one account or fifty. Without
``ACCOUNTS_FILE`` nothing of this stands between a session and its plugin.
"""
