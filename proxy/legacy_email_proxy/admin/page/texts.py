"""The catalogue: every word that stands on the page, in English. A text in another place could not be translated.

``text("key")`` gives one; ``{name}`` in it is filled in from the arguments. With ``count`` the key followed by ``.one``
is taken for 1, where there is one. The groups are those of the pages.
"""

from __future__ import annotations

from . import texts_accounts, texts_settings, texts_spool

__all__ = ("text",)

_COMMON = {
    "name": "Legacy Email Proxy",
    "skip": "Skip to the content",
    "nav": "Sections",
    "nav.overview": "Overview",
    "nav.devices": "Devices",
    "nav.messages": "Messages",
    "signed_in": "Signed in as {user}",
    "sign_out": "Sign out",
    "again.title": "One moment",
    "again.text": "The page comes at once. If it does not, load it again.",
    "never": "never",
    "none": "–",
    "size.octets": "{count} B",
    "size.kilo": "{octets} kB",
    "size.mega": "{octets} MB",
    "span.seconds": "{count} seconds",
    "span.seconds.one": "1 second",
    "span.minutes": "{count} minutes",
    "span.hours": "{count} hours",
    "span.days": "{count} days",
}

_SIGN_IN = {
    "signin.title": "Sign in",
    "signin.lead": "The password is the one in ADMIN_PASSWORD.",
    "signin.user": "Your name",
    "signin.user_help": "It stands in the log beside what you change. Any name will do.",
    "signin.password": "Password",
    "signin.submit": "Sign in",
    "signin.wrong": "The password is wrong. Look at ADMIN_PASSWORD, or at the file that ADMIN_PASSWORD_FILE names.",
    "signin.limited": "There were too many wrong passwords. Wait a minute, then try again.",
    "done.signed_out": "You have signed out.",
}

_ERRORS = {
    "error.400.title": "This address is not understood",
    "error.400.text": "A part of it is missing or is none that this page knows. Begin again at the overview.",
    "error.403.title": "The form was not accepted",
    "error.403.text": "It was opened before the proxy was restarted, or before you signed in, or another site sent it. "
    "Nothing was changed. Go back, load the page again, and send it once more. Cookies must be allowed.",
    "error.404.title": "There is no such page",
    "error.404.text": "What it was about may be gone by now. Begin at the overview.",
    "error.405.title": "This address is for forms only",
    "error.405.text": "Go to the overview, and find the form from there.",
    "error.413.title": "The form was too large",
    "error.413.text": "Nothing was changed. Choose fewer at once.",
    "error.500.title": "The page could not be made",
    "error.500.text": "The mail goes on. The log says what went wrong: look for “a page failed”.",
    "error.host.title": "This name does not lead here",
    "error.host.text": "Without a password the page answers only as localhost or 127.0.0.1. Open it under one of those "
    "names, or set ADMIN_PASSWORD: then any name will do.",
    "error.back": "To the overview",
    "no_history.title": "There is no history to show",
    "no_history.off": "HISTORY_DAYS=0 has switched it off. Set it to the number of days to keep, and restart.",
    "no_history.none": "Nothing was recorded yet. Send a message through the proxy, then load this page again.",
    "no_history.slow": "The disk does not answer in time. Look at the disk of STATE_DIR, then load this page again.",
    "no_history.damaged": "The file can not be read. The log says why: look for “history”.",
}

_OVERVIEW = {
    "overview.title": "Overview",
}

_TEXTS = {
    **_COMMON,
    **_SIGN_IN,
    **_ERRORS,
    **_OVERVIEW,
    **texts_spool.TEXTS,
    **texts_accounts.TEXTS,
    **texts_settings.TEXTS,
}


class _Catalogue:
    def __call__(self, key: str, **values: object) -> str:
        """The text, filled in. Raises ``KeyError`` where there is none."""
        if values.get("count") == 1 and f"{key}.one" in _TEXTS:
            key = f"{key}.one"
        return _TEXTS[key].format(**values)

    def has(self, key: str) -> bool:
        """Whether there is such a text."""
        return key in _TEXTS


text = _Catalogue()
"""The text of a key."""
