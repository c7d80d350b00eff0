"""Every variable of the project, once: name, type, default and the sentence that documents it.

The table in ``proxy/docs/settings.md``, ``settings``, the reader and its mistakes all read these rows; a test holds that
page against them. Links in a sentence start from there.

The settings of built-in plugins stand here too and not in the plugins: their names are documented, and a misspelt one
is noticed even where its plugin is not loaded. A site's plugin declares its own settings.
"""

from __future__ import annotations

from ..contracts import Setting
from .providers import PROFILES

__all__ = ("ALIASES", "PROCESS_WIDE", "TABLE")

_CORE = (
    Setting("POP3_BIND_ADDR", "list", "0.0.0.0", "Addresses on which POP3 listens, IPv4 or IPv6, separated by commas."),
    Setting("POP3_BIND_PORT", "integer", "110", "Port of the POP3 listener; 0 takes any free one.", minimum=0, maximum=65535),
    Setting("POP3S_BIND_ADDR", "list", "0.0.0.0", "Addresses on which POP3 with TLS from the first octet listens."),
    Setting("POP3S_BIND_PORT", "integer", None, "Port of that listener, usually 995; without it there is none. Needs `TLS_CERT_FILE`.", minimum=0, maximum=65535),
    Setting("SMTP_BIND_ADDR", "list", "0.0.0.0", "Addresses on which SMTP listens, IPv4 or IPv6, separated by commas."),
    Setting("SMTP_BIND_PORT", "integer", "25", "Port of the SMTP listener; 0 takes any free one.", minimum=0, maximum=65535),
    Setting("SMTPS_BIND_ADDR", "list", "0.0.0.0", "Addresses on which SMTP with TLS from the first octet listens."),
    Setting("SMTPS_BIND_PORT", "integer", None, "Port of that listener, usually 465; without it there is none. Needs `TLS_CERT_FILE`.", minimum=0, maximum=65535),
    Setting("TLS_CERT_FILE", "path", None, "PEM file with the certificate (and its chain) that devices are shown; with it POP3 offers STLS and SMTP offers STARTTLS."),
    Setting("TLS_KEY_FILE", "path", None, "PEM file with its key, not protected by a password; not needed when `TLS_CERT_FILE` holds the key too."),
    Setting("TLS_LEGACY", "flag", "false", "Let devices use TLS 1.0 and 1.1 and ciphers that are no longer safe, on all listeners: what they send can then be read, or changed, by a determined attacker on the way."),
    Setting("ACCOUNTS_FILE", "path", None, "TOML file with several accounts and the rules that choose one: see [Several accounts](accounts.md)."),
    Setting(
        "ALLOWED_NETWORKS", "networks",
        "127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,169.254.0.0/16,fe80::/10,fc00::/7",
        "Networks (CIDR) that may connect at all; everybody else is refused with the first line.",
    ),
    Setting("PROXY_PROTOCOL_NETWORKS", "networks", None, "Networks (CIDR) of balancers in front, which must name the device with the PROXY protocol (version 1 or 2), on all listeners: see [Two machines](two-machines.md). Its address is then the one that counts everywhere."),
    Setting("MAX_CONNECTIONS", "integer", "2000", "Connections at once, for POP3 and SMTP each; over it the client is told to come back later.", minimum=1),
    Setting("MAX_CONNECTIONS_PER_ADDRESS", "integer", "200", "Connections at once from one address (of IPv6: from one /64), for POP3 and SMTP each.", minimum=1),
    Setting(
        "POP3_LOGIN", "text", "any",
        "`any`: any USER and PASS open the configured mailbox. `backend`: USER and PASS are the login at the IMAP server. `accounts`: they are a user of `ACCOUNTS_FILE`.",
        choices=("any", "backend", "accounts"),
    ),
    Setting("POP3_IDLE_SECONDS", "seconds", "600", "A POP3 session without a command for this long is closed, and nothing is deleted (RFC 1939 wants at least 600).", minimum=1),
    Setting("POP3_LOCK", "flag", "false", "One session at a time for each mailbox, as RFC 1939 has it; the next one reads `-ERR [IN-USE]`."),
    Setting("POP3_EXPIRE_DAYS", "days", None, "After how many days the provider removes mail, or `NEVER`; announced to clients as `EXPIRE`."),
    Setting("POP3_REPLACE_NUL", "flag", "false", "Send NUL as 0x80: Outlook hangs on NUL."),
    Setting("POP3_ADD_BLANK_LINE", "flag", "false", "End a header that has no body with the blank line that it lacks: Outlook Express and Netscape fail without it."),
    Setting(
        "SMTP_AUTH", "text", "off",
        "`off`: no login is offered. `any`: AUTH is offered, for devices that insist on it, and takes any user and password; clients that do not log in may send too. `accounts`: it takes a user of `ACCOUNTS_FILE`, and rules can ask for that.",
        choices=("off", "any", "accounts"),
    ),
    Setting("SMTP_IDLE_SECONDS", "seconds", "300", "An SMTP session without a command, or without progress in DATA, for this long is closed with 421.", minimum=1),
    Setting("SMTP_PROGRESS_SECONDS", "seconds", "60", "A device that in an open mail transaction sends no command for this long, or less than 500 octets a second of its message on average over it, loses its connection to the backend and reads 451.", minimum=1),
    Setting("SMTP_LF_END_NETWORKS", "networks", None, "Networks (CIDR) of old devices that end a message with a bare LF instead of CRLF; see [Security](security.md#a-bare-lf-at-the-end-of-a-message) before you set it."),
    Setting("SMTP_MAX_OCTETS", "integer", "52428800", "Largest message taken, announced as SIZE and lowered to the backend's own; with several accounts the largest is announced, and the one that is chosen judges.", minimum=65536),
    Setting("SMTP_FILTERS", "list", None, "Filter plugins that may change or refuse what devices send, in order, separated by commas."),
    Setting("SMTP_ADD_RECEIVED", "flag", "true", "Put a `Received` line on top of each message: which device it came from, when, and the session in the log."),
    Setting("SMTP_ADD_MISSING", "flag", "true", "Add `Date`, `Message-ID` and, from the envelope, `From` where a message has none: providers refuse mail without them."),
    Setting("SMTP_REMOVE_BCC", "flag", "false", "Remove `Bcc` and `Resent-Bcc` from the header, for devices that send them along."),
    Setting("SMTP_LONG_LINES", "text", "pass", "Lines over 998 octets, which some servers refuse. `pass`: they go on as they are. `encode`: text that has one goes on as quoted-printable, long headers are folded.", choices=("pass", "encode")),
    Setting("DRAIN_SECONDS", "seconds", "8", "At SIGTERM or SIGINT, sessions in a transaction get this long to finish (podman and docker kill after 10).", minimum=0),
    Setting("DRAIN_DELAY_SECONDS", "seconds", "0", "For so long before that, `/readyz` says 503 and new connections are still served, so that a balancer sends nobody here when the listeners close; see [Two machines](two-machines.md). At a stop both times add up.", minimum=0),
    Setting("STATE_DIR", "path", "", "Folder for what must outlive a restart; `/var/lib/legacy-email-proxy` in the container, else `$STATE_DIRECTORY`, as systemd sets it, or the user's state folder."),
    Setting("STATE_URL", "secret", None, "PostgreSQL database (like `SPOOL_URL`) in which several proxies keep together what all of them have to know, OAuth2 tokens for one: see [Two machines](two-machines.md#what-they-share). Without it that of `SPOOL_URL`, if that one is PostgreSQL."),
    Setting("ADMIN_BIND_ADDR", "list", "127.0.0.1", "Addresses on which [the page](page.md), `/livez`, `/readyz` and `/metrics` are served: see [Monitoring](monitoring.md). Any other than loopback needs `ADMIN_PASSWORD`, and speaks TLS where `TLS_CERT_FILE` is set."),
    Setting("ADMIN_BIND_PORT", "integer", None, "Port of that listener; without it there is none. 0 takes any free one.", minimum=0, maximum=65535),
    Setting("ADMIN_PASSWORD", "secret", None, "Password that it wants, at the page's sign-in and by HTTP Basic with any user name; best given as `ADMIN_PASSWORD_FILE`."),
    Setting("ADMIN_METRICS_NETWORKS", "networks", None, "Networks (CIDR) that may read `/metrics` without the password."),
    Setting("ALERT_WEBHOOK_URL", "secret", None, "Address to which [alerts](alerts.md) are sent as JSON with a ready `text`, as chats take it."),
    Setting("ALERT_MAIL_TO", "list", None, "Addresses to which alerts are mailed, through the first account that takes them."),
    Setting("ALERT_COMMAND", "text", None, "Command, without a shell, that is run for each alert; the text is on its standard input."),
    Setting("HISTORY_DAYS", "integer", "14", "How long the [history](history.md) of messages, refusals and POP3 sessions is kept; 0: none.", minimum=0, maximum=3650),
    Setting("EVENT_LOOP", "text", "auto", "What runs the service: `asyncio`, or `uvloop`, which needs less CPU and is there with `pip install 'legacy-email-proxy[fast]'` and in the image; `auto` takes it where it is installed.", choices=("auto", "asyncio", "uvloop")),
    Setting("LOG_LEVEL", "text", "info", "How much is logged to standard error.", choices=("debug", "info", "warning", "error")),
    Setting("LOG_FORMAT", "text", "text", "`text` for people, `json` for machines.", choices=("text", "json")),
)  # fmt: skip

_ACCOUNT = (
    Setting("MAILDROP_PLUGIN", "text", "imap", "Where POP3 reads mail: `imap`, `maildir`, `graph` (Microsoft 365) or a plugin of yours; `none` closes the POP3 listener."),
    Setting("RELAY_PLUGIN", "text", "smtps", "Where SMTP hands mail on: `smtps`, `spool`, `maildir`, `graph` (Microsoft 365) or a plugin of yours; `none` closes the SMTP listener."),
    Setting(
        "PROVIDER", "text", None,
        "A provider whose names, ports and limits are known: see [Providers](providers.md). What you set yourself goes before it.",
        choices=tuple(PROFILES),
    ),
    Setting("SMTP_ALLOWED_SENDERS", "list", None, "Senders (`user@domain`, `@domain`, `<>` for notifications) that may send; without it all may."),
    Setting("SMTP_ALLOWED_RECIPIENTS", "list", None, "Recipients (`user@domain`, `@domain`) to whom may be sent; without it to all."),
)  # fmt: skip

_IMAP = (
    Setting("BACKEND_IMAP_HOST", "text", None, "Name of the IMAP server."),
    Setting("BACKEND_IMAP_PORT", "integer", "993", "Port of the IMAP server.", minimum=1, maximum=65535),
    Setting("BACKEND_IMAP_USER", "text", None, "Login at the IMAP server; not needed with `POP3_LOGIN=backend`."),
    Setting("BACKEND_IMAP_PASS", "secret", None, "Password for it."),
    Setting("BACKEND_IMAP_CREDENTIALS", "text", "password", "What the proxy logs in with: `password`, `oauth2` (see `OAUTH2_…`) or a plugin of yours."),
    Setting("BACKEND_IMAP_USE_SSL", "flag", "true", "Speak TLS from the first octet (IMAPS)."),
    Setting("BACKEND_IMAP_USE_STARTTLS", "flag", "false", "Start in the clear and switch to TLS before the login; set alone it switches `BACKEND_IMAP_USE_SSL` off."),
    Setting("BACKEND_IMAP_CA_FILE", "path", None, "PEM file with the CAs to trust instead of the system's."),
    Setting("BACKEND_IMAP_FOLDER", "text", "INBOX", "The folder that POP3 shows."),
    Setting(
        "BACKEND_IMAP_DELETE", "text", "expunge",
        "What becomes at QUIT of the messages that POP3 deleted. `expunge`: they are removed. `trash`: moved to the folder for trash. `flag`: only marked as deleted. `keep`: left alone. Whatever stays is not listed again.",
        choices=("expunge", "trash", "flag", "keep"),
    ),
    Setting("BACKEND_IMAP_MAX_CONNECTIONS", "integer", "10", "Connections to the IMAP server at once, per account; one client address gets three quarters of them at most, and so do all large messages together.", minimum=1),
    Setting(
        "POP3_UIDL_FORMAT", "text", "dovecot",
        "The form of the unique-ids: that of the POP3 server which your clients used before, so that they fetch nothing twice: `dovecot`, `cyrus`, `courier`, `uw`; `uidonly` is the form of old Cyrus and Courier. (`imap` only.)",
        choices=("dovecot", "cyrus", "courier", "uw", "uidonly"),
    ),
    Setting("POP3_NEWEST_MESSAGES", "integer", None, "Show only so many messages, the newest; the others are not counted. (`imap` and `graph` only.)", minimum=1),
    Setting("POP3_NEWEST_DAYS", "integer", None, "Show only messages that arrived in the last so many days; the others are not counted. (`imap` and `graph` only.)", minimum=1, maximum=36500),
    Setting("POP3_READ_ONLY", "flag", "false", "Delete nothing: QUIT answers `-ERR` if messages were marked, and leaves them as they are. (`imap` and `graph` only.)"),
    Setting("POP3_HIDE_UNFETCHABLE_AFTER", "integer", None, "Stop showing a message that the mail server failed to hand out in so many sessions, one after the other; it is not deleted. (`imap` and `graph` only.)", minimum=1),
)  # fmt: skip

_SMTPS = (
    Setting("BACKEND_SMTP_HOST", "text", None, "Name of the SMTP server."),
    Setting("BACKEND_SMTP_PORT", "integer", "465", "Port of the SMTP server.", minimum=1, maximum=65535),
    Setting("BACKEND_SMTP_USER", "text", None, "Login at the SMTP server; without it the proxy does not log in."),
    Setting("BACKEND_SMTP_PASS", "secret", None, "Password for it."),
    Setting("BACKEND_SMTP_CREDENTIALS", "text", "password", "What the proxy logs in with: `password`, `oauth2` (see `OAUTH2_…`) or a plugin of yours."),
    Setting("BACKEND_SMTP_USE_SSL", "flag", "true", "Speak TLS from the first octet (SMTPS)."),
    Setting("BACKEND_SMTP_USE_TLS", "flag", "false", "Start in the clear and switch to TLS with STARTTLS before the login; set alone it switches `BACKEND_SMTP_USE_SSL` off. `BACKEND_SMTP_USE_STARTTLS` means the same."),
    Setting("BACKEND_SMTP_CA_FILE", "path", None, "PEM file with the CAs to trust instead of the system's."),
    Setting("BACKEND_SMTP_MAX_CONNECTIONS", "integer", "10", "Connections to the SMTP server at once; one client address gets three quarters of them at most. If the server takes fewer, the proxy notices that, and mail waits for a connection that is free. Where mail waits, a slow device lends its connection to others, or loses it.", minimum=1),
    Setting("BACKEND_SMTP_EHLO_NAME", "text", None, "The name with which the proxy greets the SMTP server. Without it, that is its address in brackets, which every server has to take (RFC 5321) and some, such as smtp-relay.gmail.com, refuse."),
    Setting("BACKEND_SMTP_CHUNKING", "flag", "true", "Send messages in chunks (BDAT) where the SMTP server offers that. If the server offers it and does not understand it, the proxy notices that; set `false` for a server that stops answering or refuses the message."),
    Setting("BACKEND_SMTP_MESSAGES_PER_MINUTE", "integer", None, "How many messages the provider takes in a minute. Over it a device waits up to 30 seconds for its turn, then it is told to come back later.", minimum=1),
)  # fmt: skip

_SENDER = (
    Setting("SMTP_SENDER", "text", None, "The address that all mail shall come from, for a provider that takes no other; set, it switches the filter `sender` on."),
    Setting("SMTP_SENDER_REWRITE", "text", "both", "Where that address goes. `envelope`: the sender of `MAIL`. `header`: the fields `From` and `Sender`. `both`.", choices=("both", "envelope", "header")),
    Setting("SMTP_SENDER_REPLY_TO", "flag", "false", "Let replies go to the device's own address: it becomes `Reply-To` where there is none."),
)  # fmt: skip

_OAUTH2 = (
    Setting(
        "OAUTH2_PROVIDER", "text", "custom",
        "Whose addresses and scopes are used: `microsoft365` (IMAP and SMTP), `microsoft365-graph`, `outlook` (personal accounts), `google`, `yahoo`; with `custom` you give them. What you give by hand wins.",
        choices=("microsoft365", "microsoft365-graph", "outlook", "google", "yahoo", "custom"),
    ),
    Setting(
        "OAUTH2_GRANT", "text", None,
        "How the proxy gets a token: `client_credentials`, `jwt_bearer` (a service account), `refresh_token`, or `device_code` and `authorization_code` after `legacy-email-proxy authorize`.",
        choices=("client_credentials", "jwt_bearer", "refresh_token", "device_code", "authorization_code"),
    ),
    Setting("OAUTH2_CLIENT_ID", "text", None, "The application's (client) ID at the provider."),
    Setting("OAUTH2_CLIENT_SECRET", "secret", None, "Its secret, if it has one."),
    Setting("OAUTH2_CLIENT_SECRET_EXPIRES", "date", None, "The day on which it ends, like `2027-03-31`, as the provider shows it; an [alert](alerts.md) comes 30 days before."),
    Setting("OAUTH2_CLIENT_AUTH", "text", "post", "How the secret is sent: `post` in the form, `basic` in the header.", choices=("post", "basic")),
    Setting("OAUTH2_CLIENT_KEY", "document", None, "Its private key in PEM, instead of a secret; best given as `OAUTH2_CLIENT_KEY_FILE`."),
    Setting("OAUTH2_CLIENT_CERT", "document", None, "The key's certificate in PEM, as uploaded to the provider; best given as `OAUTH2_CLIENT_CERT_FILE`."),
    Setting(
        "OAUTH2_ASSERTION_ALGORITHM", "text", None,
        "How statements are signed with the key; without it as the provider and the key have it: `PS256` at Microsoft, else `RS256`, or that of an EC key's curve.",
        choices=("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"),
    ),
    Setting("OAUTH2_SERVICE_ACCOUNT", "document", None, "For `jwt_bearer`: the JSON key of Google's service account; best given as `OAUTH2_SERVICE_ACCOUNT_FILE`."),
    Setting("OAUTH2_SUBJECT", "text", None, "For `jwt_bearer`: whose mailbox; without it the login of the backends."),
    Setting("OAUTH2_TENANT", "text", None, "For `microsoft365` and `microsoft365-graph`: the directory (tenant) ID or a domain of yours."),
    Setting("OAUTH2_SCOPE", "text", None, "Scopes, separated by blanks, instead of the provider's usual ones."),
    Setting("OAUTH2_TOKEN_URL", "text", None, "Token endpoint, instead of the provider's."),
    Setting("OAUTH2_DEVICE_URL", "text", None, "Device authorization endpoint, instead of the provider's."),
    Setting("OAUTH2_AUTHORIZATION_URL", "text", None, "Authorization endpoint, instead of the provider's."),
    Setting("OAUTH2_REDIRECT_URL", "text", "http://localhost", "Where the browser is sent after the consent; it has to be registered with the application."),
    Setting("OAUTH2_REFRESH_TOKEN", "secret", None, "A refresh token that you have already. Once the provider has replaced it, the stored one is used, until you change this."),
    Setting("OAUTH2_STORE_KEY", "secret", None, "Passphrase with which the tokens in `STATE_DIR`, or in the database of `STATE_URL`, are encrypted; a long random one, best given as `OAUTH2_STORE_KEY_FILE`."),
    Setting("OAUTH2_CA_FILE", "path", None, "PEM file with the CAs to trust for those addresses instead of the system's."),
)  # fmt: skip

_GRAPH = (
    Setting("GRAPH_MAILBOX", "text", None, "The mailbox that the plugin `graph` sends from and reads: its address."),
    Setting("GRAPH_CREDENTIALS", "text", "oauth2", "What gives the token: `oauth2` (see `OAUTH2_…`) or a plugin of yours."),
    Setting("GRAPH_FOLDER", "text", "inbox", "The folder that POP3 shows: a well-known name such as `inbox` or `archive`, or the name of one, with `/` between it and the folder that it is in."),
    Setting(
        "GRAPH_DELETE", "text", "expunge",
        "What becomes at QUIT of the messages that POP3 deleted. `expunge`: they are removed. `trash`: moved to Deleted Items. `flag`: only marked, with the category `Deleted by POP3`. `keep`: left alone. Whatever stays is not listed again.",
        choices=("expunge", "trash", "flag", "keep"),
    ),
    Setting(
        "GRAPH_LARGE", "text", "draft",
        "How a message over 3 MB is sent, which Graph does not take in one piece. `draft`: taken apart, and its attachments are uploaded one by one; the text, the attachments and most of the header are the same, signatures break. `smtp`: by `BACKEND_SMTP_…`, as it is. `refuse`: not at all; that size is announced as SIZE.",
        choices=("draft", "smtp", "refuse"),
    ),
    Setting("GRAPH_SAVE_TO_SENT", "flag", "true", "Leave a copy of what was sent in Sent Items. `false`: each message is sent as a draft, and its copy is deleted afterwards."),
    Setting("GRAPH_MAX_REQUESTS", "integer", "4", "Requests to Graph at once, for a mailbox; Microsoft takes four.", minimum=1),
    Setting("GRAPH_URL", "text", "https://graph.microsoft.com/v1.0", "Where Graph is, for a national cloud."),
    Setting("GRAPH_CA_FILE", "path", None, "PEM file with the CAs to trust instead of the system's."),
)  # fmt: skip

_MAILDIR = (
    Setting("MAILDROP_MAILDIR_PATH", "path", None, "The Maildir that POP3 shows with `MAILDROP_PLUGIN=maildir`."),
    Setting("RELAY_MAILDIR_PATH", "path", None, "The Maildir into which mail goes with `RELAY_PLUGIN=maildir`."),
)

_SPOOL = (
    Setting("SPOOL_URL", "secret", None, "Where the spool is kept: `sqlite:///` and the path of a file, or `postgresql://user:password@host/database` (`%40` for `@` in a password, and so on), or libpq's `host=… user=… password=… dbname=…`; without it `spool.db` in `STATE_DIR`."),
    Setting("SPOOL_RELAY", "text", "smtps", "Where `RELAY_PLUGIN=spool` hands mail on: `smtps`, `maildir`, `graph` or a plugin of yours."),
    Setting("SPOOL_RETRY_SECONDS", "list", "60,300,900,1800,3600", "After how long a message is tried again, each time; the last one repeats, and up to a fifth is added by chance."),
    Setting("SPOOL_GIVE_UP_SECONDS", "seconds", "432000", "How old a message gets before it is given up (five days).", minimum=1),
    Setting("SPOOL_WARN_SECONDS", "seconds", "0", "How old a message gets before its sender is told that it is late; 0: never.", minimum=0),
    Setting("SPOOL_NOTIFY_SENDER", "text", None, "Reverse-path of notifications where the backend refuses the empty one (`<>`) that they should have; without it `SMTP_SENDER`, or `BACKEND_SMTP_USER` if that is an address."),
    Setting("SPOOL_POSTMASTER", "text", None, "An address that is told of mail which can't be delivered."),
    Setting("SPOOL_NOTIFY", "text", "both", "Who is told: the `sender`, the `postmaster`, or `both`, as far as there is one.", choices=("sender", "postmaster", "both")),
    Setting("SPOOL_MAX_OCTETS", "integer", "10737418240", "How much mail may wait in the spool, of all accounts that share it, without what was given up; over it devices are told to come back later.", minimum=65536),
    Setting("SPOOL_POISON_TRIES", "integer", "10", "How often a message may crash the relay or the proxy before it is set aside.", minimum=1),
)  # fmt: skip

TABLE = _CORE + _ACCOUNT + _IMAP + _SMTPS + _SENDER + _OAUTH2 + _GRAPH + _SPOOL + _MAILDIR

ALIASES = {"BACKEND_SMTP_USE_STARTTLS": "BACKEND_SMTP_USE_TLS"}
"""Another name of a variable → the variable. Who knows the IMAP leg's name for STARTTLS expects it on the SMTP leg."""

PROCESS_WIDE = frozenset(setting.name for setting in _CORE)
"""Variables with one value for the whole process; every other one may differ from account to account."""
