"""Statements (JWT) signed by the application: instead of a client secret (RFC 7523 §2.2), or as a grant (§2.1)."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from legacy_email_proxy.contracts import Secret

__all__ = ("LIFETIME_SECONDS", "SigningKey", "certificate_end")

LIFETIME_SECONDS = 300
"""Short, since a statement is sent at once. Google allows up to an hour, Entra advises five to ten minutes."""

_OF_CURVE = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, and the header by which the provider finds its public key. ``repr`` shows no part of the key."""

    _key: Any
    algorithm: str
    header: Mapping[str, str]

    @classmethod
    def from_pem(
        cls,
        pem: Secret,
        certificate: str | None,
        *,
        key_id: str = "",
        rsa_algorithm: str = "RS256",
        algorithm: str | None = None,
    ) -> SigningKey:
        """Read the key; ``rsa_algorithm`` is used for an RSA key when ``algorithm`` is ``None``.

        Raises ``ValueError`` with what is wrong; the text never contains the key.
        """
        try:
            key = load_pem_private_key(pem.reveal().encode(), None)
        except TypeError:
            raise ValueError("this key is protected by a password; give one that is not") from None
        except (ValueError, UnicodeEncodeError):
            raise ValueError("this is no private key in PEM") from None
        if isinstance(key, EllipticCurvePrivateKey) and key.curve.name in _OF_CURVE:
            usual = _OF_CURVE[key.curve.name]
            fits = algorithm in (None, usual)
        elif isinstance(key, RSAPrivateKey) and key.key_size >= 2048:
            usual = rsa_algorithm
            fits = algorithm is None or algorithm[0] in "RP"
        else:
            raise ValueError("the key must be RSA with 2048 bits or more, or EC on P-256, P-384 or P-521")
        if not fits:
            raise ValueError(f"with this key OAUTH2_ASSERTION_ALGORITHM can not be {algorithm}; it would be {usual}")
        header = {"kid": key_id} if key_id else {}
        if certificate is not None:
            header |= _thumbprints(certificate, key)
        return cls(key, algorithm or usual, header)

    def __repr__(self) -> str:
        return f"SigningKey({self.algorithm})"

    def signed(self, *, issuer: str, subject: str, audience: str, now: float, **claims: str) -> Secret:
        """The statement, valid for five minutes and for one use."""
        # `iat` is a minute ago because clocks differ and providers refuse a statement from the future. `nbf` is left
        # out: it would add nothing, and a server may check it more strictly than `iat`.
        stated = {
            "iss": issuer, "sub": subject, "aud": audience, "jti": secrets.token_urlsafe(16),
            "iat": int(now) - 60, "exp": int(now) + LIFETIME_SECONDS, **claims,
        }  # fmt: skip
        return Secret(jwt.encode(stated, self._key, algorithm=self.algorithm, headers=dict(self.header)))


def _thumbprints(pem: str, key: RSAPrivateKey | EllipticCurvePrivateKey) -> dict[str, str]:
    """``x5t`` and ``x5t#S256`` (RFC 7515 §4.1.7): Entra uses them to find the certificate that was uploaded."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except (ValueError, UnicodeEncodeError):
        raise ValueError("OAUTH2_CLIENT_CERT holds no certificate in PEM") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certificate.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        raise ValueError("the key does not belong to the certificate in OAUTH2_CLIENT_CERT")
    der = certificate.public_bytes(Encoding.DER)
    sha1 = hashlib.sha1(der, usedforsecurity=False).digest()
    return {"x5t": _base64url(sha1), "x5t#S256": _base64url(hashlib.sha256(der).digest())}


def certificate_end(pem: str) -> float:
    """When the certificate ends, in seconds since 1970. It is one that was read before."""
    return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc.timestamp()


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")
