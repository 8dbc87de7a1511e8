"""The facts of one X.509 certificate, and of a chain of them; no private key is read anywhere in this package."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from maintd.checks.hints import printable
from maintd.errors import TargetError

if TYPE_CHECKING:
    from cryptography import x509

TRAEFIK_DEFAULT = "TRAEFIK DEFAULT CERT"
"""Common name of the certificate that Traefik makes for names without one. Source: pkg/tls/generate/generate.go."""

_LONGEST = 120  # characters of a name from a certificate
_MOST_NAMES = 1000
_LEAST_RSA, _LEAST_CURVE = 2048, 256
_WEAK_HASHES = ("md5", "sha1")
_SERVER_AUTH = "1.3.6.1.5.5.7.3.1"


@dataclass(frozen=True)
class Certificate:
    """One certificate. Texts from it are printable."""

    subject: str
    issuer: str
    common_name: str
    names: tuple[str, ...]  # DNS names in lower case, and addresses
    not_before: datetime
    not_after: datetime
    fingerprint: str  # SHA-256, hexadecimal
    key: str  # "RSA 2048", "EC secp256r1"
    weak_key: bool | None  # None: of a kind that is not known
    signature: str  # its hash, "sha256"; "built in" for Ed25519
    is_authority: bool
    for_servers: bool  # by its extended key usage
    der: bytes = field(repr=False)

    @property
    def lifetime(self) -> timedelta:
        """From its begin to its end."""
        return self.not_after - self.not_before

    @property
    def self_issued(self) -> bool:
        """Whether its issuer is its subject."""
        return self.subject == self.issuer

    @property
    def weak_signature(self) -> bool:
        """Whether collisions of its hash can be made; that of an authority that is trusted by itself is not used."""
        return self.signature in _WEAK_HASHES and not self.self_issued

    @property
    def short_fingerprint(self) -> str:
        """Enough of the fingerprint to compare it by eye."""
        return self.fingerprint[:16]

    @property
    def label(self) -> str:
        """What a person calls it: its first name, else its subject."""
        return self.names[0] if self.names else self.common_name or self.subject

    def evidence(self) -> dict[str, Any]:
        """Plain data for an artifact."""
        return {
            "subject": self.subject,
            "issuer": self.issuer,
            "names": list(self.names),
            "not_before": self.not_before.isoformat(),
            "not_after": self.not_after.isoformat(),
            "sha256": self.fingerprint,
            "key": self.key,
            "signature": self.signature,
            "authority": self.is_authority,
        }


def parse(der: bytes, where: str) -> Certificate:
    """The facts of a certificate. Raises TargetError: malformed."""
    from cryptography import x509  # takes 60 ms, and only this job needs it
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        found = x509.load_der_x509_certificate(der)
        try:
            algorithm = found.signature_hash_algorithm
            signature = algorithm.name if algorithm is not None else "built in"
        except UnsupportedAlgorithm:
            signature = found.signature_algorithm_oid.dotted_string
        key, weak = _key(found)
        return Certificate(
            subject=_text(found.subject.rfc4514_string()),
            issuer=_text(found.issuer.rfc4514_string()),
            common_name=_common_name(found),
            names=_names(found),
            not_before=found.not_valid_before_utc,
            not_after=found.not_valid_after_utc,
            fingerprint=hashlib.sha256(der).hexdigest(),
            key=key,
            weak_key=weak,
            signature=signature,
            is_authority=_is_authority(found),
            for_servers=_for_servers(found),
            der=der,
        )
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        reason = printable(str(error))[:200]
        hint = "replace it by a valid X.509 certificate: openssl x509 -in FILE -noout -text shows what is wrong"
        raise TargetError(f"{where}: not a valid certificate: {reason}", hint, cause="malformed") from None


def covers(names: Sequence[str], wanted: str) -> bool:
    """Whether one of a certificate's names is this one, or the wildcard above it. Source: RFC 9525, 6.3."""
    wanted = wanted.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(wanted)
    except ValueError:
        parent = wanted.partition(".")[2]
        return wanted in names or (bool(parent) and f"*.{parent}" in names)
    return str(address) in names


def chain_problem(chain: Sequence[Certificate]) -> str:
    """What is wrong with the order of a chain as it was sent; empty if each certificate is issued by the next."""
    for number, (lower, upper) in enumerate(pairwise(chain), start=1):
        if lower.self_issued:
            return f"after number {number}, which is self-issued, {len(chain) - number} more follow"
        if not _issued(lower, upper):
            others = any(_issued(lower, other) for other in chain if other is not upper)
            why = "is in another place" if others else "was not sent"
            return f"number {number + 1} did not issue number {number}: the issuer, {lower.issuer}, {why}"
    return ""


def _issued(lower: Certificate, upper: Certificate) -> bool:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        below, above = (x509.load_der_x509_certificate(item.der) for item in (lower, upper))
        below.verify_directly_issued_by(above)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _key(found: x509.Certificate) -> tuple[str, bool | None]:
    """Kind and size of the public key, and whether it is too small."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

    try:
        key = found.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return found.public_key_algorithm_oid.dotted_string, None
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}", key.key_size < _LEAST_RSA
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}", key.curve.key_size < _LEAST_CURVE
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return "Ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else "Ed448", False
    if isinstance(key, dsa.DSAPublicKey):
        return f"DSA {key.key_size}", True
    return type(key).__name__, None


def _common_name(found: x509.Certificate) -> str:
    from cryptography.x509.oid import NameOID

    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return _text(str(names[0].value)) if names else ""


def _names(found: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    names = [name.lower() for name in alternative.get_values_for_type(x509.DNSName)]
    addresses = [str(item) for item in alternative.get_values_for_type(x509.IPAddress)]
    return tuple(_text(item) for item in [*names, *addresses][:_MOST_NAMES])


def _is_authority(found: x509.Certificate) -> bool:
    from cryptography import x509

    try:
        return found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _for_servers(found: x509.Certificate) -> bool:
    from cryptography import x509

    try:
        purposes = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return any(purpose.dotted_string == _SERVER_AUTH for purpose in purposes)


def _text(text: str) -> str:
    return printable(text)[:_LONGEST]
