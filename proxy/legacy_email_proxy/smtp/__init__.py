"""The SMTP leg: a plain, unauthenticated listener whose every verdict is the relay's.

``content`` and ``arguments`` decode what a device sends (sans-IO) · ``buffer`` holds it · ``session`` is the one
subclass of aiosmtpd's ``SMTP`` · ``handler`` turns commands into a transaction at the relay · ``server`` listens and
drains.
"""
