"""What servers present and what is stored, compared with rules; a hint has the change and the source of its rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from maintd.checks.certificates.certificate import (
    TRAEFIK_DEFAULT,
    Certificate,
    chain_problem,
    covers,
    parse,
)
from maintd.checks.certificates.collect import Place, Seen
from maintd.checks.certificates.stored import FolderFacts, RevocationList, Stored, StoredFile
from maintd.checks.certificates.validity import DAY, grace_of, limits_of, renewal_due_at
from maintd.checks.hints import name_first
from maintd.clients.tls_server import Handshake, NoRouteError
from maintd.errors import MaintdError, TargetError
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.units import duration_text

RELOAD_WITHIN = timedelta(hours=1)
"""How long a server may go on with its old certificate after a new one was stored."""

_EXPIRED, _NOT_YET = 10, 9  # X509_V_ERR_… of OpenSSL
_SELF_SIGNED, _SELF_SIGNED_IN_CHAIN = 18, 19
_NO_ISSUER = (2, 20, 21)
_WRONG_NAME = (62, 64)


@dataclass(frozen=True)
class Presented:
    """The certificate that a server presents at one address, and how long what it sent is valid."""

    address: str
    leaf: Certificate
    left: timedelta
    verified: bool | None  # None: not known


def report_server(ctx: Context, seen: Seen, now: datetime) -> list[Presented]:
    """Report each address of a server; what was presented, and what all addresses have in common."""
    place, subject = seen.place, seen.place.subject
    if seen.error is not None:
        ctx.report_error(f"{subject}: answers", seen.error, expected="a TLS handshake")
        return []
    found: list[Presented] = []
    any_answered = any(isinstance(item, Handshake) for item in seen.addresses.values())
    for address, item in seen.addresses.items():
        at = f"{subject} {address}" if len(seen.addresses) > 1 else subject
        if isinstance(item, NoRouteError) and any_answered:
            # A fact of this machine, which has no IPv6, for example; another address has answered.
            ctx.unknown(
                f"{at}: answers",
                f"unreachable: {item.message}",
                expected="a TLS handshake",
                hint=item.hint or "",
                optional=True,
            )
        elif isinstance(item, MaintdError):
            ctx.report_error(f"{at}: answers", item, expected="a TLS handshake")
        else:
            ctx.passed(f"{at}: answers", f"{item.protocol}, {item.cipher}", expected="a TLS handshake")
            presented = _report_handshake(ctx, place, at, item, now)
            if presented is not None:
                found.append(presented)
    if len(found) > 1:
        ctx.check(
            f"{subject}: certificates at its addresses",
            len({item.leaf.fingerprint for item in found}),
            warn_above=1,
            hint=(
                "install the same certificate everywhere: "
                + name_first([f"{item.address} has {item.leaf.short_fingerprint}" for item in found])
            ),
            rule="one name, one certificate, else a renewal was not spread",
        )
    if seen.left_out:
        ctx.unknown(
            f"{subject}: all addresses examined",
            f"too_large: {seen.left_out} more addresses were not examined",
            expected="all addresses",
            hint=f"add a target for each in targets.tls, with name: {place.sni}",
        )
    return found


def _report_handshake(ctx: Context, place: Place, at: str, item: Handshake, now: datetime) -> Presented | None:
    try:
        chain = [parse(der, f"{at}, number {number}") for number, der in enumerate(item.chain, start=1)]
    except TargetError as error:
        ctx.report_error(f"{at}: certificate", error, expected="a valid certificate")
        return None
    if not chain:
        hint = "configure a certificate, and no anonymous cipher"
        ctx.fail(f"{at}: certificate", "none was sent", expected="a certificate", hint=hint, rule="RFC 8446, 4.4.2")
        return None
    leaf = chain[0]
    ctx.report([_default(leaf, place), _trusted(item, chain, place), _name(leaf, place)], subject=at)
    ctx.report([*_validity(chain, now), _order(chain), *_strength(chain), _protocols(item)], subject=at)
    left = min(_ends(chain).not_after - now, leaf.not_after - now)
    verified = None if isinstance(item.refusal, TargetError) else not item.refusal
    return Presented(item.address, leaf, left, verified)


def _default(leaf: Certificate, place: Place) -> Criterion:
    found = leaf.common_name == TRAEFIK_DEFAULT
    change = (
        f"Traefik has no certificate for {place.sni}: give the router of Host(`{place.sni}`) a certresolver, "
        "or find why it got none: docker logs TRAEFIK 2>&1 | grep -i acme"
    )
    return Criterion(
        "default certificate of Traefik",
        "presented" if found else "not presented",
        equals="not presented",
        hint=change,
        rule="Traefik's documentation, TLS, Default Certificate",
    )


def _trusted(item: Handshake, chain: Sequence[Certificate], place: Place) -> Criterion:
    name, expected = "certificate is accepted", "yes"
    if isinstance(item.refusal, TargetError):
        cause = f"{item.refusal.cause}: {item.refusal.message}"
        return Criterion(name, unknown=cause, equals=expected, hint=item.refusal.hint or "repeat it: the next run does")
    severity = CheckStatus.FAIL if place.must_be_trusted else CheckStatus.WARN
    hint = _change(item.refusal_code, chain, place) if item.refusal else ""
    return Criterion(name, item.refusal or "yes", equals=expected, severity=severity, hint=hint, rule="RFC 5280, 6")


def _change(code: int, chain: Sequence[Certificate], place: Place) -> str:
    """What a person changes so that a verification succeeds; `code` of OpenSSL."""
    last, trust = chain[-1], f"set targets.{place.kind}.{place.name}.ca_file to a PEM file with it"
    if code == _EXPIRED:
        ended = next((each for each in chain if each.not_after < datetime.now(each.not_after.tzinfo)), chain[0])
        return f"renew {ended.subject}, which ended {ended.not_after:%Y-%m-%d}, and find why its renewal did not run"
    if code == _NOT_YET:
        return f"set the clock of this machine and of the authority; it begins {chain[0].not_before:%Y-%m-%d %H:%M} UTC"
    if code in _WRONG_NAME:
        return f"request a certificate with the name {place.sni}, or correct the target's name"
    if code == _SELF_SIGNED:
        return f"install a certificate of an authority; or, if this one is intended, {trust}"
    if code in _NO_ISSUER:
        return (
            f"send the whole chain: append the certificate of {last.issuer} to the server's file (certbot: use "
            f"fullchain.pem, not cert.pem); or, if that is an authority of your own, {trust}"
        )
    if code == _SELF_SIGNED_IN_CHAIN:
        return f"if {last.subject} is an authority of your own, {trust}; else install a certificate of a known one"
    return f"install a certificate that a client accepts, or, if its authority is your own, {trust}"


def _name(leaf: Certificate, place: Place) -> Criterion:
    covered = covers(leaf.names, place.sni)
    names = name_first(leaf.names) or "no name at all"
    return Criterion(
        "certificate is for its name",
        place.sni if covered else f"for {names}",
        equals=place.sni,
        hint=f"request a certificate with the name {place.sni}, or correct the target's name",
        rule="RFC 9525, 6.3",
    )


def _ends(chain: Sequence[Certificate]) -> Certificate:
    """What of the chain ends first. A root that is sent is not used: the client has its own."""
    used = [each for each in chain if not (each.is_authority and each.self_issued)] or chain
    return min(used, key=lambda each: each.not_after)


def _validity(chain: Sequence[Certificate], now: datetime) -> Iterator[Criterion]:
    leaf, first = chain[0], _ends(chain)
    yield Criterion(
        "certificate has begun",
        now - leaf.not_before,
        at_least=timedelta(0),
        hint=f"it begins {leaf.not_before:%Y-%m-%d %H:%M} UTC: set the clock of this machine and of the authority",
        rule="RFC 5280, 4.1.2.5",
    )
    limits = limits_of(leaf.lifetime)
    which = "it" if first is leaf else f"{first.subject}, which is sent with it,"
    change = f"{which} ends {first.not_after:%Y-%m-%d %H:%M} UTC: renew it, and find why its renewal did not run"
    yield Criterion(
        "certificate is valid for",
        first.not_after - now,
        at_least=limits.fail,
        warn_below=limits.warn,
        hint=change,
        rule=f"fractions of its lifetime of {duration_text(leaf.lifetime)}",
    )


def _order(chain: Sequence[Certificate]) -> Criterion:
    problem = chain_problem(chain)
    return Criterion(
        "chain is in order",
        problem or "yes",
        equals="yes",
        severity=CheckStatus.WARN,  # most clients sort it; others do not accept it
        hint="put the server's certificate first into its file, then the one that issued it, and so on; no other",
        rule="RFC 8446, 4.4.2",
    )


def _strength(chain: Sequence[Certificate]) -> Iterator[Criterion]:
    wanted = "at least RSA 2048 or EC P-256"
    weak = [f"{each.key} of {each.subject}" for each in chain if each.weak_key]
    strange = [f"{each.key} of {each.subject}" for each in chain if each.weak_key is None]
    yield Criterion(
        "keys of the chain",
        name_first(weak) or wanted,
        unknown="" if weak or not strange else f"unfamiliar: {name_first(strange)}",
        equals=wanted,
        hint="request a new certificate with a new key: EC P-256, or RSA 2048 or larger",
        rule="Baseline Requirements of the CA/Browser Forum, 6.1.5",
    )
    old = [f"{each.signature} of {each.subject}" for each in chain if each.weak_signature]
    yield Criterion(
        "signatures of the chain",
        name_first(old) if old else "no MD5 or SHA-1",
        equals="no MD5 or SHA-1",
        hint="request a new certificate from an authority that signs with SHA-256 or better",
        rule="Baseline Requirements of the CA/Browser Forum, 7.1.3.2",
    )


def _protocols(item: Handshake) -> Criterion:
    name, expected = "versions below TLS 1.2", "refused"
    if isinstance(item.old_protocol, TargetError):
        cause = f"{item.old_protocol.cause}: {item.old_protocol.message}"
        return Criterion(name, unknown=cause, equals=expected, hint=item.old_protocol.hint or "the next run tries it")
    return Criterion(
        name,
        f"{item.old_protocol} accepted" if item.old_protocol else expected,
        equals=expected,
        severity=CheckStatus.WARN,
        hint=(
            "set the lowest version to TLS 1.2 (nginx: ssl_protocols TLSv1.2 TLSv1.3; Traefik: tls.options.default."
            "minVersion: VersionTLS12; Postgres: ssl_min_protocol_version = 'TLSv1.2')"
        ),
        rule="RFC 8996",
    )


# --- stored certificates ---


def report_folder(ctx: Context, subject: str, facts: FolderFacts) -> None:
    """Report whether all of a folder was read; its files are reported by themselves."""
    unread = [*facts.unread, *([f"{facts.left_out} more files"] if facts.left_out else [])]
    if unread:
        hint = "let the user of maintd read it, mount it, or name a smaller folder"
        ctx.unknown(f"{subject}: all of it is read", f"denied: {name_first(unread)}", expected="all", hint=hint)
    ctx.check(
        f"{subject}: files with certificates",
        len(facts.files),
        warn_below=1,
        hint="correct the path of the folder target, mount it, or remove it: it has no *.pem, *.crt or acme.json",
    )


def report_file(ctx: Context, subject: str, file: StoredFile, renew_before: timedelta, now: datetime) -> None:
    """Report one file with certificates."""
    if file.has_key:
        ctx.check(
            f"{subject}: only its owner can read it",
            f"mode {file.mode:04o}" if file.open_to_others else "yes",
            equals="yes",
            hint="chmod 600 it on its host: it has a private key",
            rule="Traefik's documentation, ACME, Storage" if file.acme else "NIST SP 800-57 Part 1, 6.2.1",
        )
    if file.acme:
        change = "find why Traefik got none: docker logs TRAEFIK 2>&1 | grep -i acme; a router needs a certresolver"
        ctx.check(
            f"{subject}: certificates",
            len(file.items),
            warn_below=1,
            hint=change,
            rule="Traefik's documentation, ACME",
        )
    labels = _labels(file.items)
    for label, item in zip(labels, file.items, strict=True):
        at = f"{subject} {label}".rstrip()
        if item.problem is not None:
            ctx.report_error(f"{at}: can be read", item.problem, expected="a certificate")
        elif item.leaf is not None:
            _report_stored(ctx, at, item, item.leaf, file, renew_before, now)
    for number, revoked in enumerate(file.lists, start=1):
        _report_revocations(ctx, f"{subject} revocations {number}", revoked, now)


def _report_stored(
    ctx: Context,
    at: str,
    item: Stored,
    leaf: Certificate,
    file: StoredFile,
    renew_before: timedelta,
    now: datetime,
) -> None:
    limits = limits_of(leaf.lifetime, authority=leaf.is_authority)
    by = "Traefik renews it: docker logs TRAEFIK 2>&1 | grep -i acme" if file.acme else "renew it and replace the file"
    ctx.check(
        f"{at}: valid for",
        leaf.not_after - now,
        at_least=limits.fail,
        warn_below=limits.warn,
        hint=f"{leaf.subject} ends {leaf.not_after:%Y-%m-%d %H:%M} UTC: {by}",
        rule=f"fractions of its lifetime of {duration_text(leaf.lifetime)}",
    )
    problems = [
        *([f"begins {leaf.not_before:%Y-%m-%d %H:%M} UTC"] if leaf.not_before > now else []),
        *([f"the key is only {leaf.key}"] if leaf.weak_key else []),
        *([f"signed with {leaf.signature}"] if leaf.weak_signature else []),
        *([chain_problem(item.chain)] if chain_problem(item.chain) else []),
        *([f"is not for {name}" for name in item.domains if not covers(leaf.names, name) and name not in leaf.names]),
    ]
    ctx.check(
        f"{at}: sound",
        name_first(problems) or "yes",
        equals="yes",
        hint="request it again, with a new key of EC P-256 or RSA 2048 or larger, and store the whole chain in order",
        rule="Baseline Requirements of the CA/Browser Forum, 6.1.5 and 7.1.3.2; RFC 8446, 4.4.2",
    )
    if file.acme:
        due = renewal_due_at(leaf, renew_before)
        ctx.check(
            f"{at}: renewal is overdue by",
            max(now - due, timedelta(0)),
            warn_above=grace_of(leaf.lifetime),
            hint=(
                f"it was due to be renewed from {due:%Y-%m-%d} on: find the last error by docker logs TRAEFIK 2>&1 "
                "| grep -i acme; check port 80 or the DNS record of the challenge, and the authority's rate limits"
            ),
            rule=f"Traefik renews {duration_text(renew_before)} before the end, or at two thirds of the lifetime",
        )


def _report_revocations(ctx: Context, at: str, revoked: RevocationList, now: datetime) -> None:
    if revoked.next_update is None:
        cause = "unfamiliar: it does not state when the next one is due"
        ctx.unknown(f"{at}: is current for", cause, hint="issue it with a nextUpdate: RFC 5280, 5.1.2.5", optional=True)
        return
    ctx.check(
        f"{at}: is current for",
        revoked.next_update - now,
        at_least=timedelta(0),
        warn_below=DAY,
        hint=f"let {revoked.issuer} issue a new list, and replace the file",
        rule="RFC 5280, 5.1.2.5",
    )


def _labels(items: Sequence[Stored]) -> list[str]:
    """A label for each, with a number where two are equal."""
    used: dict[str, int] = {}
    labels = []
    for item in items:
        used[item.label] = used.get(item.label, 0) + 1
        labels.append(item.label if used[item.label] == 1 else f"{item.label} ({used[item.label]})")
    return labels


# --- served and stored ---


def report_served(
    ctx: Context, place: Place, found: Sequence[Presented], files: Mapping[str, StoredFile], now: datetime
) -> None:
    """Report whether a server presents the newest of the stored certificates that are for its name."""
    candidates = [
        (item.leaf, subject, file)
        for subject, file in files.items()
        for item in file.items
        if item.leaf is not None and not item.leaf.is_authority and item.leaf.for_servers
        if covers(item.leaf.names, place.sni)
    ]
    if not candidates:
        return
    newest, subject, file = max(candidates, key=lambda each: (each[0].not_before, each[0].not_after))
    for presented in found:
        at = f"{place.subject} {presented.address}" if len(found) > 1 else place.subject
        name, age = f"{at}: presents the stored certificate", now - file.modified_at
        observed, criterion = _served(name, presented.leaf, newest, subject)
        if criterion.status is CheckStatus.FAIL and age < RELOAD_WITHIN:
            expected = f"the stored one within {duration_text(RELOAD_WITHIN)}"
            ctx.passed(name, f"{observed}, written {duration_text(max(age, timedelta(0)))} ago", expected=expected)
        else:
            ctx.report([criterion])


def _served(name: str, leaf: Certificate, newest: Certificate, subject: str) -> tuple[str, Criterion]:
    expected, rule = "yes", "a renewal counts when it is in use"
    if leaf.fingerprint == newest.fingerprint:
        return expected, Criterion(name, expected, equals=expected)
    if leaf.not_before > newest.not_before:
        hint = f"it does not use {subject}: name the file that it uses, or remove this one"
        observed = f"a newer one, {leaf.short_fingerprint}, than {newest.short_fingerprint} in {subject}"
        return observed, Criterion(name, observed, equals=expected, severity=CheckStatus.WARN, hint=hint, rule=rule)
    observed = f"{leaf.short_fingerprint} of {leaf.not_before:%Y-%m-%d}, not {newest.short_fingerprint} of {subject}"
    hint = f"reload the server, so that it reads {subject} again (Traefik: docker restart TRAEFIK)"
    return observed, Criterion(name, observed, equals=expected, hint=hint, rule=rule)
