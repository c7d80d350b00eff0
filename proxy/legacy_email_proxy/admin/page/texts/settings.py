"""The words of the page about the settings."""

from __future__ import annotations

__all__ = ("TEXTS",)

TEXTS = {
    "nav.settings": "Settings",
    "settings.title": "Settings",
    "settings.lead": "What is in effect now, and where each value comes from. Secrets are hidden.",
    "settings.name": "Setting",
    "settings.value": "Value",
    "settings.origin": "Comes from",
    "settings.given": "Set here",
    "settings.given_caption": "What is not as it is by default.",
    "settings.of_account": "Account {account}",
    "settings.differ": "{count} settings of its own",
    "settings.differ.one": "1 setting of its own",
    "settings.differ_caption": "What comes from elsewhere than the settings above.",
    "settings.defaults": "Defaults",
    "settings.show_defaults": "Show the other {count} settings",
    "settings.defaults_caption": "What nobody has set.",
    "settings.read_anew": "After a change",
    "settings.read_anew_text": "Files are read anew by a reload: the accounts file, the files of secrets, "
    "certificates. Sessions that are open go on as they are. What stands in the environment itself needs a restart.",
    "settings.check": "Look for mistakes",
    "settings.reload": "Reload",
    "settings.mistakes": "{count} mistakes were found",
    "settings.mistakes.one": "1 mistake was found",
    "settings.not_reloaded": "Not reloaded, because of {count} mistakes",
    "settings.not_reloaded.one": "Not reloaded, because of 1 mistake",
    "settings.mistakes_text": "Everything goes on as before. Mend this, then look again.",
    "settings.no_mistakes": "No mistakes were found",
    "settings.doubts": "This can be read, but looks wrong:",
    "done.settings_reloaded": "Reloaded. New sessions have the new settings.",
}
