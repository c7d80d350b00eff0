"""Import: a Postfix that hands all mail to a provider (``main.cf`` with ``relayhost``, and its ``sasl_passwd``).

Postfix answers a device before the provider has the message, and tries for days. So does the proxy with its spool,
which is therefore switched on.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from ..contracts import SettingsMistake
from .draft import Draft, account_name

__all__ = ("read_config",)

_REFERENCE = re.compile(r"\$(?:\{(\w+)\}|\((\w+)\)|(\w+))")
_RELAYHOST = re.compile(r"(\[?)([^\[\]:\s]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)(\]?)(?::([\w-]+))?")
_SYSTEM_CAS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_PORTS = {"smtp": 25, "submission": 587, "submissions": 465, "smtps": 465}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_TAKEN = frozenset(
    {
        *("relayhost", "smtp_sasl_auth_enable", "smtp_sasl_password_maps", "smtp_tls_wrappermode"),
        *("smtp_tls_security_level", "smtp_use_tls", "smtp_enforce_tls", "smtp_tls_CAfile", "mynetworks"),
        *("inet_interfaces", "message_size_limit", "smtp_helo_name", "maximal_queue_lifetime", "sender_canonical_maps"),
        *("smtp_generic_maps", "smtp_sender_dependent_authentication", "smtpd_tls_cert_file", "smtpd_tls_key_file"),
    }
)
_OF_NO_IMPORTANCE = re.compile(
    r"(queue|daemon|command|data|config|manpage|readme|html|sample|shlib|meta|mail_spool)_directory|compatibility_level"
    r"|.*_program|.*_path|mail_(owner|name)|setgid_group|biff|append_dot_mydomain|debug.*|myhostname|mydomain|myorigin"
    r"|mydestination|alias_(maps|database)|inet_protocols|smtpd?_tls_(session_cache.*|loglevel|mandatory.*|protocols)"
    r"|smtp_sasl_(security_options|tls_security_options|mechanism_filter|type)|smtpd_banner|recipient_delimiter"
    r"|mailbox_size_limit|smtpd_(relay|recipient)_restrictions|unknown_local_recipient_reject_code"
    r"|smtp_tls_CApath|smtpd?_tls_note_starttls_offer|maillog_file|default_transport|smtpd_tls_security_level"
    r"|smtpd_use_tls|bounce_queue_lifetime|delay_warning_time|local_.*|mynetworks_style"
)
"""Parameters that a relay for devices has from its installation, or that the proxy does by itself."""
_BOUNDED = re.compile(r"[0-9]{1,12}")


def read_config(path: Path) -> Draft:
    """The settings of this file. Raises :class:`SettingsMistake`."""
    return _Reading(path, _parameters(_text(path, "--from"))).draft()


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsMistake(f"{what}: can not read {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsMistake(f"{what}: {str(path)!r} is not UTF-8 text") from None


def _logical_lines(text: str) -> list[str]:
    """A line that begins with a blank goes on with the one before; comments and empty lines do not end it."""
    found: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] in " \t" and found:
            found[-1] += f" {line.strip()}"
        else:
            found.append(line.strip())
    return found


def _parameters(text: str) -> dict[str, str]:
    """Name → value. The last one of a name counts."""
    pairs = (line.split("=", 1) for line in _logical_lines(text) if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


class _Reading:
    def __init__(self, path: Path, raw: Mapping[str, str]) -> None:
        self._folder = path.parent
        self._raw = {"config_directory": str(path.parent), **raw}
        self.left_out: list[str] = []

    def value(self, name: str, around: frozenset[str] = frozenset()) -> str:
        """A parameter with the others that it refers to put in; one that refers to itself is empty."""
        if name in around:
            return ""
        return _REFERENCE.sub(
            lambda found: self.value(found[1] or found[2] or found[3], around | {name}), self._raw.get(name, "")
        )

    def flag(self, name: str) -> bool:
        return self.value(name).lower() == "yes"

    def draft(self) -> Draft:
        relayhost = next(iter(re.split(r"[,\s]+", self.value("relayhost"))), "")
        if not relayhost:
            raise SettingsMistake("--from: relayhost is not set, so this Postfix hands its mail to no provider")
        if len(re.split(r"[,\s]+", self.value("relayhost"))) > 1:
            self.left_out.append("relayhost: the second host and those behind it; there is one provider here")
        host, port = self._relayhost(relayhost)
        values = {"MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "spool", "BACKEND_SMTP_HOST": host}
        values |= {"BACKEND_SMTP_PORT": str(port), **self._tls(port)}
        logins = self._logins(relayhost, host, port)
        default = next(
            (
                logins[key]
                for key in (relayhost, f"[{host}]:{port}", f"{host}:{port}", f"[{host}]", host)
                if key in logins
            ),
            None,
        )
        if default:
            values |= {"BACKEND_SMTP_USER": default[0], "BACKEND_SMTP_PASS": default[1]}
        elif self.flag("smtp_sasl_auth_enable"):
            self.left_out.append(
                f"the login: no entry for {relayhost} was found; give BACKEND_SMTP_USER and _PASS_FILE"
            )
        values |= self._listener() | self._limits() | self._sender()
        draft = Draft({name: text for name, text in values.items() if text}, left_out=self.left_out)
        if self.flag("smtp_sender_dependent_authentication"):
            self._by_sender(draft, {key: login for key, login in logins.items() if "@" in key and "[" not in key})
        for name in self._raw:
            if (
                name not in _TAKEN
                and not _OF_NO_IMPORTANCE.fullmatch(name)
                and self.value(name)
                and name != "config_directory"
            ):
                self.left_out.append(f"{name} = {self.value(name)}")
        self.left_out.append(
            "master.cf: ports and services of your own; mail that waits in Postfix's queue is still Postfix's"
        )
        return draft

    def _relayhost(self, text: str) -> tuple[str, int]:
        found = _RELAYHOST.fullmatch(text)
        if not found:
            raise SettingsMistake(f"--from: relayhost = {text!r} can not be read; it should be [host]:port")
        if not found[1] and not found[3]:
            self.left_out.append(
                f"relayhost without brackets: the MX record of {found[2]} is not asked for, the host itself is used"
            )
        service = found[4] or "smtp"
        if service.isdigit():
            return found[2], int(service)
        try:
            return found[2], _PORTS.get(service) or socket.getservbyname(service, "tcp")
        except OSError:
            raise SettingsMistake(f"--from: relayhost = {text!r}: there is no service {service!r}") from None

    def _tls(self, port: int) -> dict[str, str]:
        level = self.value("smtp_tls_security_level").lower()
        if not level and (self.flag("smtp_use_tls") or self.flag("smtp_enforce_tls")):
            level = "may"
        if self.flag("smtp_tls_wrappermode") or port == 465:
            found = {"BACKEND_SMTP_USE_SSL": "true"}
        elif level in ("", "none"):
            found = {"BACKEND_SMTP_USE_SSL": "false"}
        else:
            found = {"BACKEND_SMTP_USE_TLS": "true"}
        if level in ("may", "encrypt"):
            self.left_out.append(
                f"smtp_tls_security_level = {level}: here TLS is never left out, and the certificate is verified"
            )
        if (file := self.value("smtp_tls_CAfile")) and file not in _SYSTEM_CAS:
            found["BACKEND_SMTP_CA_FILE"] = file
        path = self.value("smtp_tls_CApath")
        if path.rstrip("/") not in ("", "/etc/ssl/certs", "/etc/pki/tls/certs"):
            self.left_out.append(f"smtp_tls_CApath = {path}: name one file with the CAs, BACKEND_SMTP_CA_FILE")
        return found

    def _logins(self, relayhost: str, host: str, port: int) -> dict[str, tuple[str, str]]:
        """Key of the password table → user and password."""
        found: dict[str, tuple[str, str]] = {}
        if not self.flag("smtp_sasl_auth_enable"):
            return found
        for table in re.split(r",\s*|\s+(?=[a-z]+:)", self.value("smtp_sasl_password_maps")):
            kind, _, rest = table.strip().partition(":")
            if kind == "static":
                user, _, password = rest.partition(":")
                found.setdefault(relayhost, (user, password))
            elif kind in ("hash", "texthash", "lmdb", "btree", "cdb", "dbm"):
                file = self._folder / rest
                lines = _logical_lines(_text(file, "--from: smtp_sasl_password_maps"))
                for key, login in (parts for line in lines if len(parts := line.split(None, 1)) == 2):
                    user, _, password = login.partition(":")
                    found.setdefault(key, (user, password))
            elif kind:
                self.left_out.append(
                    f"smtp_sasl_password_maps: a table of type {kind}; give BACKEND_SMTP_USER and _PASS_FILE"
                )
        if "xoauth2" in self.value("smtp_sasl_mechanism_filter").lower():
            self.left_out.append(
                "tokens of sasl-xoauth2: run setup with --login device_code instead, and consent again"
            )
            return {}
        return found

    def _by_sender(self, draft: Draft, logins: Mapping[str, tuple[str, str]]) -> None:
        """An account for each sender that has a login of its own, and one for all others."""
        if not logins:
            return
        own = {name: draft.values.pop(name) for name in list(draft.values) if name.startswith("BACKEND_SMTP_")}
        for key, (user, password) in logins.items():
            name = account_name(key.lstrip("@"), draft.accounts)
            draft.accounts[name] = own | {"BACKEND_SMTP_USER": user, "BACKEND_SMTP_PASS": password}
            draft.rules.append({"account": name, "sender": key})
        if "BACKEND_SMTP_USER" in own:
            name = account_name("others@", draft.accounts)
            draft.accounts[name] = own
            draft.rules.append({"account": name})

    def _listener(self) -> dict[str, str]:
        found: dict[str, str] = {}
        interfaces = [each for each in re.split(r"[,\s]+", self.value("inet_interfaces")) if each]
        addresses = ["127.0.0.1" if each in ("loopback-only", "localhost") else each for each in interfaces]
        if addresses and "all" not in addresses:
            found["SMTP_BIND_ADDR"] = ",".join(dict.fromkeys(addresses))
        networks = []
        for each in re.split(r"[,\s]+", self.value("mynetworks")):
            text = each.replace("[", "").replace("]", "")
            try:
                networks += [str(ipaddress.ip_network(text, strict=False))] if text else []
            except ValueError:
                self.left_out.append(f"mynetworks: {each}; write it into ALLOWED_NETWORKS in CIDR notation")
        mapped = ipaddress.ip_network("::ffff:0:0/96")
        usable = [text for text in networks if not _is_mapped(text, mapped)]
        if usable:
            found["ALLOWED_NETWORKS"] = ",".join(dict.fromkeys(usable))
        if self.value("smtpd_tls_cert_file") and (
            self.flag("smtpd_use_tls") or self.value("smtpd_tls_security_level") in ("may", "encrypt")
        ):
            found["TLS_CERT_FILE"] = self.value("smtpd_tls_cert_file")
            found["TLS_KEY_FILE"] = self.value("smtpd_tls_key_file")
        return found

    def _limits(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if (size := self.value("message_size_limit")) and _BOUNDED.fullmatch(size):
            if int(size) >= 65536:
                found["SMTP_MAX_OCTETS"] = size
            elif int(size) == 0:
                self.left_out.append("message_size_limit = 0, no limit: there is one here, SMTP_MAX_OCTETS")
        lifetime = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", self.value("maximal_queue_lifetime"))
        if lifetime and int(lifetime[1]):
            found["SPOOL_GIVE_UP_SECONDS"] = str(int(lifetime[1]) * _SECONDS[lifetime[2] or "d"])
        if name := self.value("smtp_helo_name"):
            found["BACKEND_SMTP_EHLO_NAME"] = name
        return found

    def _sender(self) -> dict[str, str]:
        for name in ("sender_canonical_maps", "smtp_generic_maps"):
            if not (table := self.value(name)):
                continue
            if found := re.fullmatch(r"static:(\S+@\S+)", table):
                return {"SMTP_SENDER": found[1]}
            self.left_out.append(f"{name} = {table}: SMTP_SENDER gives all mail one sender; a plugin can do more")
        return {}


def _is_mapped(text: str, mapped: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    network = ipaddress.ip_network(text)
    return (
        isinstance(network, ipaddress.IPv6Network)
        and isinstance(mapped, ipaddress.IPv6Network)
        and network.subnet_of(mapped)
    )
