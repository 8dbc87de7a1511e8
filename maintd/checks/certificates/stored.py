"""Certificates in files: PEM, and the acme.json of Traefik. Private keys are dropped while a file is read.

Source of acme.json: Traefik's pkg/provider/acme (StoredData, CertAndStore, Certificate), versions 2 and 3: by resolver
an `Account` and `Certificates`, each with `domain` (`main`, `sans`), `certificate` and `key`, both base64 of PEM. Names
are read in any case, as Go's decoder does; so does version 1, which has no resolvers.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maintd.checks.certificates.certificate import Certificate, parse
from maintd.checks.hints import printable
from maintd.checks.probes import as_target_error
from maintd.clients.bounded import parse_json
from maintd.clients.causes import cause_of
from maintd.clients.files import Entry, Tree, modified_at, shown
from maintd.errors import MaintdError, TargetError

MAX_FILES = 2000
"""Files of one folder that are read."""

_MOST_BYTES = 16 << 20  # of a file; an acme.json with 1,000 certificates has 10 MB
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_CRL = re.compile(rb"-----BEGIN X509 CRL-----[^-]+-----END X509 CRL-----")
_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_BORDER = re.compile(rb"-----(BEGIN|END) ([^-\r\n]{1,80})-----")
_READ = (b"CERTIFICATE", b"X509 CRL")
_NO_CERTIFICATE = re.compile(
    rb"(?:[A-Z0-9 ]*(?:PRIVATE KEY|PUBLIC KEY|PARAMETERS))|(?:NEW )?CERTIFICATE REQUEST|ATTRIBUTE CERTIFICATE"
)
_FILES = re.compile(r"\.(pem|crt|cer|cert)$|^acme[^/]*\.json$", re.IGNORECASE)
_UNREAD = datetime.min.replace(tzinfo=UTC)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class Stored:
    """One certificate of a file, with the others of its chain. `problem`: why it could not be read."""

    label: str  # what identifies it in its file
    chain: tuple[Certificate, ...] = ()
    problem: TargetError | None = None
    domains: tuple[str, ...] = ()  # of acme.json

    @property
    def leaf(self) -> Certificate | None:
        """The certificate itself."""
        return self.chain[0] if self.chain else None


@dataclass(frozen=True)
class StoredFile:
    """A file with certificates, without the keys in it; with `error`, it could not be read."""

    path: str
    modified_at: datetime = _UNREAD
    mode: int = 0
    has_key: bool = False
    acme: bool = False
    items: tuple[Stored, ...] = field(default=())
    lists: tuple[RevocationList, ...] = field(default=())
    error: MaintdError | None = None

    @property
    def open_to_others(self) -> bool:
        """Whether other users than its owner can read or write it."""
        return bool(self.mode & _OTHERS)


@dataclass(frozen=True)
class RevocationList:
    """A list of revoked certificates. `next_update`: None if it has none."""

    issuer: str
    next_update: datetime | None


@dataclass(frozen=True)
class FolderFacts:
    """The files of a folder, in the order of their names, and what could not be read."""

    files: tuple[StoredFile, ...]
    unread: tuple[str, ...]
    left_out: int


def read_folder(folder: Path, left_out: Callable[[str], bool] = lambda relative: False) -> FolderFacts:
    """Every file with certificates in a folder and below, but those `left_out`, by path. Raises TargetError."""
    with Tree(folder, one_device=False) as tree:  # each of its folders may be mounted by itself
        found = [entry for entry in tree.walk(_is_wanted) if not left_out(entry.relative)]
        unread = tuple(tree.unread)
    entries = sorted(found, key=lambda item: item.parts)
    return FolderFacts(
        tuple(_of_entry(folder, entry) for entry in entries[:MAX_FILES]), unread, max(0, len(entries) - MAX_FILES)
    )


def _is_wanted(name: str) -> bool:
    return _FILES.search(name) is not None


def _of_entry(folder: Path, entry: Entry) -> StoredFile:
    name = shown(entry.relative)
    try:
        with as_target_error(name):
            # A link is followed here: certbot's live folder consists of links.
            return read_file(folder.joinpath(*entry.parts), name)
    except MaintdError as error:
        return StoredFile(name, error=error)


def read_file(path: Path, name: str | None = None) -> StoredFile:
    """The certificates of one file. Raises TargetError."""
    name = name or shown(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise TargetError(f"{name}: is not a file", "remove it, or name a file", cause="unfamiliar")
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        cause = "not_found" if isinstance(error, FileNotFoundError) else cause_of(error) or "failed"
        hint = "correct the path, or mount it" if cause == "not_found" else "let the user of maintd read it"
        raise TargetError(f"{name}: {error.strerror}", hint, cause=cause) from error
    if len(data) > _MOST_BYTES:
        raise TargetError(f"{name}: has more than 16 MiB", "name a file with certificates", cause="too_large")
    acme = _is_acme(path.name, data)
    items, has_key = _acme(data, name) if acme else (list(_pem(data, name)), _KEY.search(data) is not None)
    return StoredFile(
        path=name,
        modified_at=modified_at(status),
        mode=stat.S_IMODE(status.st_mode),
        has_key=has_key,
        acme=acme,
        items=tuple(items),
        lists=() if acme else tuple(_revocations(data, name)),
    )


def _is_acme(name: str, data: bytes) -> bool:
    return name.lower().endswith(".json") or data.lstrip()[:1] == b"{"


def _pem(data: bytes, name: str) -> Iterator[Stored]:
    """A file has one chain, or a bundle of authorities, each of which counts by itself."""
    incomplete = _incomplete(data, name)
    if incomplete is not None:
        yield Stored("", problem=incomplete)
    others = _other_blocks(data, name)
    yield from others
    blocks = [match[0] for match in _PEM.finditer(data)]
    if not blocks:
        if incomplete is None and not others and not _CRL.search(data) and not _KEY.search(data):
            yield Stored("", problem=TargetError(f"{name}: has no certificate in PEM", cause="unfamiliar"))
        return
    chain, problems = _parsed(blocks, name)
    yield from problems
    if chain and chain[0].is_authority:
        for certificate in chain:
            yield Stored(certificate.label, (certificate,))
    elif chain:
        yield Stored(chain[0].label, tuple(chain))


def _other_blocks(data: bytes, name: str) -> list[Stored]:
    """Blocks that may have certificates, and are not read: `TRUSTED CERTIFICATE` of OpenSSL, `PKCS7`, `CMS`, ….

    Of keys, parameters, requests and revocation lists it is known that they have none.
    """
    found = []
    for label in dict.fromkeys(border[2] for border in _BORDER.finditer(data) if border[1] == b"BEGIN"):
        if label not in _READ and _NO_CERTIFICATE.fullmatch(label) is None:
            kind = printable(label.decode(errors="replace"))
            hint = "write its certificates as PEM: openssl x509, or openssl pkcs7 -print_certs"
            error = TargetError(f"{name}: a block {kind} is not read", hint, cause="unfamiliar")
            found.append(Stored(kind, problem=error))
    return found


def _incomplete(data: bytes, name: str) -> TargetError | None:
    """What is wrong if a block has begun that has no end, such as in a file that was copied in part."""
    begun = data.count(b"-----BEGIN")
    complete = sum(1 for _ in _PEM.finditer(data)) + sum(1 for _ in _CRL.finditer(data))
    opened = b""
    for border in _BORDER.finditer(data):
        which, label = border.groups()
        complete += which == b"END" and label == opened and label not in (b"CERTIFICATE", b"X509 CRL")
        opened = label if which == b"BEGIN" else b""
    if begun <= complete:
        return None
    text = f"{name}: {begun - complete} of {begun} blocks of PEM are not complete"
    return TargetError(text, "copy the file again as a whole", cause="unfamiliar")


def _parsed(blocks: list[bytes], name: str) -> tuple[list[Certificate], list[Stored]]:
    found, problems = [], []
    for number, block in enumerate(blocks, start=1):
        try:
            body = b"".join(block.split(b"-----")[2].split())
            found.append(parse(base64.b64decode(body, validate=True), f"{name}, number {number}"))
        except binascii.Error:
            error = TargetError(f"{name}, number {number}: is not PEM", cause="malformed")
            problems.append(Stored(f"number {number}", problem=error))
        except TargetError as error:
            problems.append(Stored(f"number {number}", problem=error))
    return found, problems


def _revocations(data: bytes, name: str) -> Iterator[RevocationList]:
    from cryptography import x509

    for block in _CRL.finditer(data):
        try:
            found = x509.load_pem_x509_crl(block[0])
            yield RevocationList(printable(found.issuer.rfc4514_string())[:120], found.next_update_utc)
        except ValueError as error:
            raise TargetError(f"{name}: not a valid list of revocations: {error}", cause="malformed") from None


# --- acme.json ---


def _acme(data: bytes, name: str) -> tuple[list[Stored], bool]:
    """The certificates, and whether there was a key."""
    if not data.strip():
        return [], False  # Traefik creates it empty
    dropped = _Dropped()
    found = parse_json(data, name, object_hook=dropped.without_keys)
    if found is None:
        return [], False
    if not isinstance(found, Mapping):
        raise TargetError(f"{name}: is not an acme.json of Traefik", cause="unfamiliar")
    if "certificates" in found and not isinstance(found["certificates"], Mapping):  # version 1
        found = {"": found}
    items: list[Stored] = []
    for resolver, data_of in found.items():
        items += _of_resolver(str(resolver), data_of, name)
    return items, dropped.any_key


class _Dropped:
    """Drops accounts and keys while JSON is decoded."""

    any_key = False

    def without_keys(self, members: dict[str, Any]) -> dict[str, Any]:
        """The members, by names in lower case; a resolver can have any name."""
        kept: dict[str, Any] = {}
        for name, value in members.items():
            low = name.lower()
            if low in ("key", "privatekey") and not isinstance(value, dict):
                self.any_key = True
            elif low != "account" or (isinstance(value, dict) and "certificates" in value):
                kept[low if low in _NAMES else name] = value
        return kept


_NAMES = {"certificates", "certificate", "domain", "main", "sans"}


def _of_resolver(resolver: str, data: Any, name: str) -> Iterator[Stored]:
    at = printable(resolver)[:60]
    if data is None:
        return
    certificates = data.get("certificates") if isinstance(data, Mapping) else ...
    if certificates is None:
        return  # it has an account, and no certificate yet
    if not isinstance(certificates, list):
        yield Stored(at, problem=TargetError(f"{name}: resolver {at}: not a list of certificates", cause="unfamiliar"))
        return
    for number, item in enumerate(certificates, start=1):
        yield _of_item(f"{at} " if at else "", number, item, name)


def _of_item(at: str, number: int, item: Any, name: str) -> Stored:
    domain = item.get("domain") if isinstance(item, Mapping) else None
    main = domain.get("main") if isinstance(domain, Mapping) else None
    sans = domain.get("sans") if isinstance(domain, Mapping) else None
    others = sans if isinstance(sans, list) else []
    domains = tuple(printable(each).lower()[:255] for each in (main, *others) if isinstance(each, str) and each)
    label = f"{at}{domains[0] if domains else f'number {number}'}"
    encoded = item.get("certificate") if isinstance(item, Mapping) else None
    if not isinstance(encoded, str) or not encoded:
        error = TargetError(f"{name}: {label}: has no certificate", cause="unfamiliar")
        return Stored(label, problem=error, domains=domains)
    try:
        pem = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        pem = b""
    incomplete = _incomplete(pem, f"{name}: {label}")
    if incomplete is not None:
        return Stored(label, problem=incomplete, domains=domains)
    blocks = [match[0] for match in _PEM.finditer(pem)]
    chain, problems = _parsed(blocks, f"{name}: {label}")
    if problems or not chain:
        found = problems[0].problem if problems else None
        none = TargetError(f"{name}: {label}: not a certificate in PEM", cause="malformed")
        return Stored(label, problem=found or none, domains=domains)
    return Stored(label, tuple(chain), domains=domains)
