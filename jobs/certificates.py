"""Check the certificates that servers present and those in files: trust, names, validity, renewal, keys and versions.

Runbook: Monthly Maintenance, Security Review, 4 Certificate Management

Each TLS target, and each HTTP target with `https`, is connected to at every address of its name: one handshake shows
what it sends, one verifies it, one offers only versions below TLS 1.2. Nothing is requested. Files are PEM and the
acme.json of Traefik 2 and 3; private keys in them are dropped while they are read, and never kept or printed. A server
must present the newest certificate that is stored for its name. Limits are fractions of the lifetime, since authorities
shorten it. Hosts that Traefik serves by labels of containers, and that no target names, are reported. Not examined:
PKCS#12 and JKS, OCSP, RFC 9773, hosts in files of Traefik. Read-only.
"""

import json
from collections.abc import Iterator
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from maintd.checks.certificates import evaluate, routers, stored
from maintd.checks.certificates.collect import Place, examine
from maintd.checks.certificates.evaluate import Presented
from maintd.checks.certificates.routers import RouterHosts
from maintd.checks.certificates.stored import StoredFile
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.security import certificates as requirements
from maintd.clients import tls_server
from maintd.job import Context, Duration, JobParams, Role, TargetError, job
from maintd.job.references import resolved
from maintd.reports.document import Cell, Section, Table, columns
from maintd.reports.review_report import publish_review

DAY = timedelta(days=1)


class Params(JobParams):
    tls: tuple[str, ...] | None = None
    """Names of TLS targets; all by default, none: `[]`."""
    http: tuple[str, ...] | None = None
    """Names of HTTP targets whose url is https; all by default, none: `[]`."""
    folders: tuple[str, ...] | None = None
    """Folder targets with `*.pem`, `*.crt`, `*.cer`, `*.cert`, `acme*.json`; default: `certificates`, if it exists."""
    files: tuple[Path, ...] = ()
    """Further files: PEM or acme.json."""
    ignore: tuple[str, ...] = ("archive/*", "*/archive/*")
    """Patterns of paths below a folder target that are left out: certbot's archive has every old certificate."""
    routers: bool = False
    """Also whether each host in the labels of containers that Traefik reads is examined, on all Docker targets."""
    renew_before: Duration = timedelta(days=30)
    """How long before its end Traefik renews a certificate of acme.json: by default 30 days."""


@job(
    timeout="10m",
    repeatable=True,
    reads_findings=True,
    requires=requirements,
    admin_params=True,  # they name files to read
)
def run(ctx: Context, params: Params) -> None:
    """Read what is stored, examine the servers, and compare both."""
    places, folders = list(places_of(ctx, params)), folders_of(ctx, params)
    served = dict(router_hosts(ctx)) if params.routers else {}
    if not (places or folders or params.files or ctx.checks or any(found.routers for found in served.values())):
        hint = "set targets.tls, an HTTP target with https, or targets.folders.certificates in the calendar"
        raise TargetError("no server and no file with certificates is configured", hint, cause="not_configured")
    with ctx.phase("read stored certificates"):
        files = dict(read_files(ctx, params, folders))
    evidence: list[dict[str, Any]] = []
    with ctx.phase("examine servers"):
        for seen in examine(places):
            name = f"{seen.place.subject}: answers"
            with isolate_errors(ctx, name, expected="a TLS handshake"):
                found = evaluate.report_server(ctx, seen, ctx.now())
                evaluate.report_served(ctx, seen.place, found, files, ctx.now())
                measure(ctx, seen.place, found)
                evidence += [server_evidence(seen.place, item) for item in found]
    for name, found_hosts in served.items():
        ctx.report(routers.criteria(found_hosts, [place.sni for place in places]), f"docker {name}")
    evidence += [item for subject, file in files.items() for item in file_evidence(subject, file)]
    ctx.save("certificates.json", json.dumps(evidence, indent=1), "application/json")
    with ctx.phase("write the report"):
        publish_review(ctx, kind="certificates", title="Certificates", sections=[validity(evidence)])


def places_of(ctx: Context, params: Params) -> Iterator[Place]:
    """The servers to examine."""
    tls: dict[str, Any] = {} if params.tls == () else dict(ctx.chosen("tls", params.tls or ()))
    for name, target in tls.items():
        with isolate_errors(ctx, f"tls {name}: answers", expected="a TLS handshake"):
            found = resolved(target)
            tls_server.host_and_port(found.address)
            yield Place("tls", name, found)
    http: dict[str, Any] = {} if params.http == () else dict(ctx.chosen("http", params.http or ()))
    for name, target in http.items():
        with isolate_errors(ctx, f"http {name}: answers", expected="a TLS handshake"):
            place = tls_server.of_http(target)
            if place is not None:
                yield Place("http", name, place, must_be_trusted=target.verify)


def router_hosts(ctx: Context) -> Iterator[tuple[str, RouterHosts]]:
    """The hosts of Traefik's routers on each engine."""
    for name in ctx.targets.docker:
        with isolate_errors(ctx, f"docker {name}: labels of containers", role=Role.SOURCE):
            found = routers.collect(resolved(ctx.target("docker", name)), name)
            if found.routers or found.patterns:
                yield name, found


def folders_of(ctx: Context, params: Params) -> dict[str, Path]:
    """The folders to read, by name."""
    names = params.folders
    if names is None:
        names = ("certificates",) if "certificates" in ctx.targets.folders else ()
    return {name: ctx.target("folders", name).path for name in names}


def read_files(ctx: Context, params: Params, folders: dict[str, Path]) -> Iterator[tuple[str, StoredFile]]:
    """Read and report each file; yield those that could be read, with the subject of their checks."""
    for path in params.files:
        with isolate_errors(ctx, f"file {path}: can be read", expected="certificates"):
            file = stored.read_file(path)
            evaluate.report_file(ctx, f"file {path}", file, params.renew_before, ctx.now())
            yield f"file {path}", file
    for name, path in folders.items():
        with isolate_errors(ctx, f"folder {name}: can be read", expected="certificates"):
            facts = stored.read_folder(path, lambda relative: left_out(relative, params.ignore))
            evaluate.report_folder(ctx, f"folder {name}", facts)
            for item in facts.files:
                subject = f"{name}/{item.path}"
                with isolate_errors(ctx, f"{subject}: can be read", expected="certificates"):
                    if item.error is not None:
                        raise item.error
                    evaluate.report_file(ctx, subject, item, params.renew_before, ctx.now())
                    yield subject, item


def left_out(relative: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path below a folder matches one of the patterns."""
    return any(fnmatchcase(relative, pattern) for pattern in patterns)


def measure(ctx: Context, place: Place, found: list[Presented]) -> None:
    """Record what is worst of all addresses."""
    if not found:
        return
    worst = min(found, key=lambda item: item.left)
    ctx.measure("ssl_certificate_expiry_days", worst.left / DAY, "day", service=place.name)
    ctx.measure("ssl_certificate_lifetime_days", worst.leaf.lifetime / DAY, "day", service=place.name)
    if all(item.verified is not None for item in found):
        ctx.measure("ssl_certificate_verified", all(item.verified for item in found), service=place.name)


def validity(evidence: list[dict[str, Any]]) -> Section:
    """The certificates that were read, those that end first first."""
    rows = tuple(
        tuple(Cell(str(text)) for text in (where, part, item["subject"], item["issuer"], item["not_after"]))
        for item in sorted(evidence, key=lambda item: str(item["not_after"]))
        for where, part in [(item.get("server", item.get("file")), item.get("address", item.get("label")))]
    )
    titles = columns("Where", "Address or name", "Subject", "Issuer", "Ends")
    return Section("Certificates", tables=(Table("As presented and as stored", titles, rows, "None was read."),))


def server_evidence(place: Place, item: Presented) -> dict[str, Any]:
    """Plain data about what a server presents."""
    return {"server": place.subject, "address": item.address, "verified": item.verified, **item.leaf.evidence()}


def file_evidence(subject: str, file: StoredFile) -> Iterator[dict[str, Any]]:
    """Plain data about the certificates of a file."""
    for item in file.items:
        if item.leaf is not None:
            yield {"file": subject, "label": item.label, **item.leaf.evidence()}
