"""The SMTP leg: takes mail from devices, and hands each message to the relay, whose verdict is the device's reply.

Devices need neither TLS nor a login. In the order of a message: ``server`` accepts the connection; ``session`` carries
out the commands on a ``connection``, which stands on ``aiosmtpd_adapter`` and ``buffer``; ``arguments`` and
``authentication`` read what follows a command; ``handler`` calls the relay; ``reading`` and ``content`` decode the
message; ``rewriting`` changes it where settings ask for that, with ``headers``, ``mending``, ``signatures`` and
``long_lines``.
"""
