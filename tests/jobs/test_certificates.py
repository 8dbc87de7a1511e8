"""The job certificates against real TLS servers and files: good ones, and each way in which one can be wrong."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.compose_project import Project
from support.job_runs import JOBS, JobResult, run_job
from support.receivers import SmtpController
from support.servers import certificates as made
from support.servers.base import free_port
from support.servers.certificates import Issued, issue, listener, presents, server_context
from support.servers.postgres import postgres
from support.users import as_unprivileged_user, folder_for_all

from maintd.model.evidence import CheckStatus

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN


@dataclass
class Site:
    """An authority with an intermediate one, its file, and servers that run as long as the module's tests."""

    root: trustme.CA
    intermediate: trustme.CA
    folder: Path
    opened: ExitStack

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def serve(self, issued: Issued, **options: Any) -> int:
        context = server_context(issued, self.folder, **options)
        return self.opened.enter_context(listener(presents(context)))

    def examine(self, port: int, host: str = "127.0.0.1", **target: Any) -> JobResult:
        given = {"address": f"{host}:{port}", "ca_file": str(self.ca_file), "timeout": "60s", **target}
        return run_job("certificates", {}, {"tls": {"web": given}})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = trustme.CA(organization_name="Root")
    folder = tmp_path_factory.mktemp("certificates")
    root.cert_pem.write_to_path(str(folder / "ca.pem"))
    with ExitStack() as opened:
        yield Site(root, root.create_child_ca(), folder, opened)


@pytest.fixture(scope="module")
def good(site: Site) -> Issued:
    return issue(site.intermediate)


@pytest.fixture(scope="module")
def port(site: Site, good: Issued) -> int:
    return site.serve(good)


ROUTED = "docker main: hosts of Traefik's routers that are not examined"


def not_ok(result: JobResult) -> dict[str, CheckStatus]:
    return {check.name: check.status for check in result.checks if check.status is not OK}


# --- servers --------------------------------------------------------------------------------------------------------


def test_a_good_certificate_passes_every_check_and_is_measured(site: Site, port: int) -> None:
    result = site.examine(port)

    assert (result.outcome, not_ok(result)) == ("succeeded", {}), result.text()
    assert 59.9 < result.measure("ssl_certificate_expiry_days", service="web") <= 60
    assert result.measure("ssl_certificate_lifetime_days", service="web") == pytest.approx(90, abs=0.01)
    assert result.measure("ssl_certificate_verified", service="web") == 1
    assert str(result.check("tls web: answers").observed).startswith("TLSv1.3")
    assert len(result.checks) >= 9, "each rule is a check, also when it is met"


VALID = "tls web: certificate is valid for"
ACCEPTED = "tls web: certificate is accepted"
NAME = "tls web: certificate is for its name"
BEGUN = "tls web: certificate has begun"


def missing_intermediate(site: Site) -> Issued:
    whole = issue(site.intermediate)
    return Issued(whole.chain[:1], whole.key)


def wrong_order(site: Site) -> Issued:
    whole, other = issue(site.intermediate), issue(site.root)
    return Issued((whole.chain[0], other.chain[0], *whole.chain[1:]), whole.key)


@pytest.mark.parametrize(
    ("make", "expected", "hint"),
    [
        (lambda site: issue(site.intermediate, begun=90, left=-1), {VALID: FAIL, ACCEPTED: FAIL}, "renew"),
        (lambda site: issue(site.intermediate, begun=-2), {BEGUN: FAIL, ACCEPTED: FAIL}, "set the clock"),
        (
            lambda site: issue(site.intermediate, "other.example"),
            {NAME: FAIL, ACCEPTED: FAIL},
            "with the name 127.0.0.1",
        ),
        (missing_intermediate, {ACCEPTED: FAIL}, "send the whole chain"),
        (lambda site: made.self_signed("web"), {ACCEPTED: FAIL, NAME: FAIL}, "ca_file"),
        (
            lambda site: issue(trustme.CA(organization_name="Other")),
            {ACCEPTED: FAIL},
            "append the certificate of OU=Testing CA",
        ),
        (wrong_order, {"tls web: chain is in order": WARN}, "first into its file"),
        # Of 90 days: it warns below 25 and fails below 10.
        (lambda site: issue(site.intermediate, begun=66, left=24), {VALID: WARN}, "renew it"),
        (lambda site: issue(site.intermediate, begun=81, left=9), {VALID: FAIL}, "renew it"),
    ],
    ids=["expired", "future", "name", "intermediate", "self-signed", "authority", "order", "25 days", "10 days"],
)
def test_what_is_wrong_with_a_certificate_is_named_with_the_change_and_the_rule(
    site: Site, make: Any, expected: dict[str, CheckStatus], hint: str
) -> None:
    result = site.examine(site.serve(make(site)))

    assert not_ok(result) == expected, result.text()
    hints = [check.hint for check in result.checks if check.name in expected]
    assert any(hint in text for text in hints), hints
    assert all(check.rule for check in result.checks if check.name in expected)


def test_the_default_certificate_of_traefik_is_recognised(site: Site) -> None:
    issued = made.self_signed("TRAEFIK DEFAULT CERT", "0123.4567.traefik.default", days=365)

    result = site.examine(site.serve(issued), name="shop.example")

    check = result.check("tls web: default certificate of Traefik")
    assert (check.status, check.observed) == (FAIL, "presented")
    assert "Host(`shop.example`)" in check.hint


def test_a_small_key_is_found(site: Site) -> None:
    issued = made.self_signed("web", "localhost", key=made.small_key())
    result = site.examine(site.serve(issued), name="localhost")

    check = result.check("tls web: keys of the chain")
    assert (check.status, "RSA 1024" in str(check.observed)) == (FAIL, True)


def test_an_old_version_that_is_still_accepted_warns(site: Site, good: Issued) -> None:
    result = site.examine(site.serve(good, old=True))

    check = result.check("tls web: versions below TLS 1.2")
    assert (check.status, check.observed) == (WARN, "TLSv1.1 accepted"), result.text()
    assert check.rule == "RFC 8996"


def test_a_server_that_requires_a_certificate_of_its_client_is_examined(site: Site, good: Issued) -> None:
    result = site.examine(site.serve(good, client_ca=site.root))

    assert (result.outcome, not_ok(result)) == ("succeeded", {}), result.text()


def test_a_name_is_requested_that_is_not_the_address(site: Site) -> None:
    port = site.serve(issue(site.intermediate, "*.shop.example"))

    assert site.examine(port, name="www.shop.example").outcome == "succeeded"
    assert site.examine(port, name="a.b.shop.example").check(NAME).status is FAIL


def test_every_address_of_a_name_is_examined(
    site: Site, good: Issued, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The name's addresses come from the resolver of the machine; here only its answer is fixed."""
    port, real = site.serve(good), socket.getaddrinfo
    other = server_context(issue(site.intermediate), tmp_path)
    site.opened.enter_context(listener(presents(other), "127.0.0.2", port))
    answers = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
        for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    ]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: answers if host == "localhost" else real(host, *rest, **more)
    )

    result = site.examine(port, host="localhost")

    assert not_ok(result) == {
        "tls web 127.0.0.3: answers": FAIL,
        "tls web: certificates at its addresses": WARN,
    }, result.text()


# --- servers that do not answer -------------------------------------------------------------------------------------


def sends(data: bytes) -> made.Handle:
    def handle(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(data)

    return handle


def drips(connection: socket.socket) -> None:
    while True:  # one byte of a record now and then; ended by its client
        connection.sendall(b"\x16")
        time.sleep(0.05)


RECORD = b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76"  # the beginning of a ServerHello


@pytest.mark.parametrize(
    ("handle", "cause", "seconds"),
    [
        (lambda connection: connection.recv(1 << 20) and connection.recv(1), "timed_out", 0.5),
        (drips, "timed_out", 0.5),
        (sends(RECORD), "partial", 60),
        (sends(b""), "partial", 60),
        (sends(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "tls", 60),
        (sends(b"\x15\x03\x03\x00\x02\x02\x28"), "tls", 60),
    ],
    ids=["hangs", "drips", "half", "closes", "plain", "alert"],
)
def test_a_server_that_completes_no_handshake_is_no_success(
    site: Site, handle: Any, cause: str, seconds: float
) -> None:
    with listener(handle) as port:
        result = site.examine(port, timeout=f"{seconds}s")

    check = result.check("tls web: answers")
    assert check.status is FAIL, result.text()
    # Bytes that come one at a time may also be recognised as no record, before the time is over.
    assert str(check.observed).partition(":")[0] in {cause, *(["tls"] if handle is drips else [])}
    assert {measure.name for measure in result.measures} == {"review_checks"}


def test_a_refused_connection_and_a_name_without_an_address_fail(site: Site) -> None:
    refused = site.examine(free_port()).check("tls web: answers")
    unknown = site.examine(443, host="no-such-host.invalid").check("tls web: answers")

    assert (refused.status, str(refused.observed).partition(":")[0]) == (FAIL, "refused")
    assert (unknown.status, str(unknown.observed).partition(":")[0]) == (FAIL, "unreachable")


@pytest.mark.parametrize("address", ["web", "web:", "web:0", "web:99999", "web:x", ":443", "a:²"])
def test_an_address_that_cannot_be_read_is_no_success(address: str) -> None:
    result = run_job("certificates", {}, {"tls": {"web": {"address": address}}})
    assert result.outcome == "unknown" or result.check("tls web: answers").status is FAIL, result.text()


def test_a_bundle_of_authorities_that_cannot_be_read_is_no_success(site: Site, port: int, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("missing.pem", "empty.pem"):
        check = site.examine(port, ca_file=str(tmp_path / name)).check("tls web: answers")
        assert (check.status, "ca_file" in check.hint) == (FAIL, True)


def test_one_server_that_hangs_hides_no_other(site: Site, port: int) -> None:
    with listener(lambda connection: connection.recv(1 << 20) and connection.recv(1)) as hanging:
        servers = {
            "dead": {"address": f"127.0.0.1:{hanging}", "timeout": "0.5s"},
            "web": {"address": f"127.0.0.1:{port}", "ca_file": str(site.ca_file), "timeout": "60s"},
        }
        result = run_job("certificates", {}, {"tls": servers})

    assert not_ok(result) == {"tls dead: answers": FAIL}, result.text()


# --- TLS within another protocol ------------------------------------------------------------------------------------


@pytest.mark.server
def test_a_postgres_server_is_examined_and_one_without_tls_fails(site: Site, good: Issued) -> None:
    with postgres() as server:
        plain = site.examine(server.port, starttls="postgres").check("tls web: answers")
        for name, data in (("server.crt", good.pem), ("server.key", good.key)):
            path = server.folder / "data" / name
            path.write_bytes(data)
            path.chmod(0o600)
            if os.geteuid() == 0:
                owner = (server.folder / "data").stat()
                os.chown(path, owner.st_uid, owner.st_gid)
        server.stop()
        with (server.folder / "data/postgresql.conf").open("a") as settings:
            settings.write("ssl = on\n")
        server.start()
        result = site.examine(server.port, starttls="postgres")

    assert (plain.status, "refuses TLS" in str(plain.observed)) == (FAIL, True)
    assert (result.outcome, not_ok(result)) == ("succeeded", {}), result.text()


def test_a_mail_server_is_examined_by_starttls(site: Site, good: Issued) -> None:
    context = server_context(good, site.folder)
    controller = SmtpController(object(), hostname="127.0.0.1", port=free_port(), tls_context=context)
    controller.start()
    try:
        result = site.examine(controller.port, starttls="smtp")
    finally:
        controller.stop()

    assert (result.outcome, not_ok(result)) == ("succeeded", {}), result.text()


def test_hosts_that_traefik_serves_and_no_target_names_are_reported(site: Site, port: int, project: Project) -> None:
    rule = "Host(`localhost`) || Host(`forgotten.example`)"
    project.start("web", labels={"traefik.enable": "true", "traefik.http.routers.web.rule": rule})
    given = {"address": f"127.0.0.1:{port}", "name": "localhost", "ca_file": str(site.ca_file), "timeout": "60s"}
    targets = {"tls": {"web": given}, **project.targets()}

    check = run_job("certificates", {"routers": True}, targets).check(ROUTED)
    alone = run_job("certificates", {"routers": True}, project.targets()).check(ROUTED)
    down = {"tls": {"web": given}, "docker": {"main": {"url": "unix:///nowhere.sock", "timeout": "2s"}}}
    unseen = run_job("certificates", {"routers": True}, down).check("docker main: labels of containers")

    assert (check.status, check.observed, alone.observed) == (CheckStatus.WARN, 1, 2)
    assert "forgotten.example (web)" in check.hint
    assert unseen.status is CheckStatus.UNKNOWN


# --- HTTP targets ---------------------------------------------------------------------------------------------------


def test_an_https_target_is_examined_without_a_target_of_its_own(site: Site, port: int) -> None:
    http = {
        "shop": {"url": f"https://127.0.0.1:{port}/health", "ca_file": str(site.ca_file), "timeout": "60s"},
        "plain": {"url": "http://127.0.0.1:9/health"},
    }
    result = run_job("certificates", {}, {"http": http})

    assert (result.outcome, result.named("plain")) == ("succeeded", []), result.text()
    assert result.measure("ssl_certificate_expiry_days", service="shop") > 59


def test_a_target_that_verifies_nothing_warns_of_what_it_accepts(site: Site) -> None:
    port = site.serve(issue(trustme.CA()))
    http = {"shop": {"url": f"https://127.0.0.1:{port}/", "verify": False, "timeout": "60s"}}

    result = run_job("certificates", {}, {"http": http})

    assert not_ok(result) == {"http shop: certificate is accepted": WARN}, result.text()


def test_without_a_server_or_a_file_it_is_not_configured() -> None:
    result = run_job("certificates", {}, {"http": {"plain": {"url": "http://127.0.0.1:9/"}}})
    assert getattr(result.error, "cause", "") == "not_configured"


def test_doctor_completes_a_handshake_with_each_server_before_it_is_needed(site: Site, port: int) -> None:
    tls = {
        "web": {"address": f"127.0.0.1:{port}", "ca_file": str(site.ca_file), "timeout": "60s"},
        "dead": {"address": f"127.0.0.1:{free_port()}"},
    }
    step = {"entry": "review", "step": "certificates", "job": "certificates", "params": "{}"}
    calendar = {"steps": [{**step, "path": str(JOBS / "certificates.py")}], "store": None}

    result = run_job("doctor", {"calendar": calendar}, {"tls": tls})

    assert result.check("tls web: complete a handshake").status is OK, result.text()
    assert not_ok(result) == {"tls dead: answers": FAIL}


# --- files ----------------------------------------------------------------------------------------------------------


def read(folder: Path, job_folder: Path | None = None) -> JobResult:
    return run_job("certificates", {}, {"folders": {"certificates": {"path": str(folder)}}}, folder=job_folder)


def put(folder: Path, name: str, data: bytes, mode: int = 0o600, age: timedelta = timedelta(hours=2)) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    at = (datetime.now(UTC) - age).timestamp()
    os.utime(path, (at, at))


@pytest.mark.parametrize("version", [2, 3])
def test_every_certificate_of_an_acme_json_is_read_and_no_key_is_kept(site: Site, tmp_path: Path, version: int) -> None:
    days = {"a": (30, 60), "b": (30, 24), "c": (81, 9)}
    items = [issue(site.intermediate, f"{name}.example", begun=at[0], left=at[1]) for name, at in days.items()]
    made_items = [item.acme(f"{name}.example") for name, item in zip("abc", items, strict=True)]
    put(tmp_path, "acme.json", made.acme_json(made_items, version=version))

    result = read(tmp_path, job_folder=tmp_path / "job")

    at = "certificates/acme.json le"
    assert result.check(f"{at} a.example: valid for").status is OK, result.text()
    assert result.check(f"{at} c.example: valid for").status is FAIL
    overdue = result.check(f"{at} b.example: renewal is overdue by")
    # 24 days are left of 54: a renewal is due at 18.
    assert overdue.status is OK
    everything = result.text() + json.dumps([item.model_dump(mode="json") for item in result.checks])
    artifact = (tmp_path / "job/artifacts/certificates.json").read_text()
    assert "b.example" in artifact
    everything += artifact
    assert made.SECRET not in everything
    for item in made_items:
        assert item["key"] not in everything
        assert item["key"][40:80] not in everything
    assert all(item.key.splitlines()[1].decode() not in everything for item in items)


@pytest.mark.parametrize(("left", "status"), [(31, OK), (28, OK), (26, WARN), (1, WARN)])
def test_a_renewal_that_is_stuck_warns_before_the_certificate_ends(
    site: Site, tmp_path: Path, left: int, status: CheckStatus
) -> None:
    """Of 90 days: due 30 days before the end, and overdue three days later."""
    issued = issue(site.intermediate, "a.example", begun=90 - left, left=left)
    put(tmp_path, "acme.json", made.acme_json([issued.acme("a.example")]))

    check = read(tmp_path).check("certificates/acme.json le a.example: renewal is overdue by")

    assert check.status is status
    assert "grep -i acme" in check.hint


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (made.acme_json(None), "warned"),
        (made.acme_json([]), "warned"),
        (b"", "warned"),
        (b"null", "warned"),
        (b'{"le": null}', "warned"),
        (b'{"le": {"Account": {"Email": "a"}, "Certificates": [{"domain": {"main": "a"}}]}}', "unknown"),
        (b'{"le": {"Certificates": [{"domain": {"main": "a"}, "certificate": "bm8="}]}}', "failed"),
        (b'{"le": {"Certificates": [null, 1, []]}}', "unknown"),
        (b'{"le": 5}', "unknown"),
        (b"[]", "unknown"),
        (b'{"le": {"Acc', "failed"),
        (b"[" * 100_000, "unknown"),
        (b'{"le": {"Account": {"PrivateKey": "' + b"A" * (17 << 20) + b'"}}}', "unknown"),
        (b"\xff\xfe\x00", "failed"),
    ],
    ids=[
        *("no list", "empty list", "empty", "null", "no resolver", "no certificate", "no PEM", "odd items", "a number"),
        *("a list", "truncated", "deep", "large", "binary"),
    ],
)
def test_an_acme_json_without_a_certificate_is_no_success(tmp_path: Path, data: bytes, outcome: str) -> None:
    put(tmp_path, "acme.json", data)
    result = read(tmp_path)
    assert result.outcome == outcome, result.text()


def test_a_chain_of_an_acme_json_that_was_copied_in_part_is_unknown(site: Site, tmp_path: Path) -> None:
    issued = issue(site.intermediate, "a.example")
    cut = Issued((*issued.chain[:-1], issued.chain[-1][:-12]), issued.key)
    put(tmp_path, "acme.json", made.acme_json([cut.acme("a.example")]))

    assert not_ok(read(tmp_path)) == {"certificates/acme.json le a.example: can be read": UNKNOWN}


def test_an_acme_json_of_five_megabytes_and_one_of_version_1_are_read(site: Site, tmp_path: Path) -> None:
    issued = issue(site.intermediate, "a.example")
    many = [issued.acme("a.example") | {"padding": "x" * 5000} for _ in range(1000)]
    put(tmp_path, "acme.json", made.acme_json(many))
    old = {"Domain": {"Main": "a.example"}, "Certificate": many[0]["certificate"], "Key": many[0]["key"]}
    put(tmp_path, "acme1.json", json.dumps({"Account": {"PrivateKey": made.SECRET}, "Certificates": [old]}).encode())

    result = read(tmp_path)

    assert (result.outcome, not_ok(result)) == ("succeeded", {}), result.text()[:5000]
    assert len(result.named("valid for")) == 1001


def test_a_file_with_a_key_that_others_can_read_fails(site: Site, tmp_path: Path, good: Issued) -> None:
    put(tmp_path, "acme.json", made.acme_json([good.acme("localhost", "127.0.0.1")]), 0o644)
    put(tmp_path, "web.pem", good.key + good.pem, 0o640)
    put(tmp_path, "public.pem", good.pem, 0o644)

    result = read(tmp_path)

    expected = {f"certificates/{name}: only its owner can read it": FAIL for name in ("acme.json", "web.pem")}
    assert not_ok(result) == expected, result.text()


@pytest.mark.parametrize("label", ["TRUSTED CERTIFICATE", "PKCS7", "CMS", "PKCS #7 SIGNED DATA", "X509 CERTIFICATE"])
@pytest.mark.parametrize("beside", [False, True])
def test_a_block_that_may_have_certificates_and_is_not_read_is_named(
    tmp_path: Path, good: Issued, label: str, beside: bool
) -> None:
    other = good.pem.replace(b"CERTIFICATE-", f"{label}-".encode())
    put(tmp_path, "web.pem", (good.pem if beside else b"") + other)

    result = read(tmp_path)

    unknown = {name: status for name, status in not_ok(result).items() if status is UNKNOWN}
    assert len(unknown) == 1, result.text()
    assert f"a block {label} is not read" in str(result.check(next(iter(unknown))).observed)


def test_keys_parameters_and_requests_beside_a_certificate_are_no_certificates(tmp_path: Path, good: Issued) -> None:
    labels = ("DH PARAMETERS", "EC PARAMETERS", "PUBLIC KEY", "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
    others = [f"-----BEGIN {label}-----\nMAo=\n-----END {label}-----\n".encode() for label in labels]
    put(tmp_path, "web.pem", good.key + good.pem + b"".join(others))

    assert not [name for name, status in not_ok(read(tmp_path)).items() if status is UNKNOWN]


def test_a_file_with_a_time_beyond_the_year_9999_is_read(good: Issued) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # tmpfs keeps all of it
        put(Path(folder), "web.pem", good.key + good.pem)
        os.utime(Path(folder, "web.pem"), (300_000_000_000, 300_000_000_000))

        result = read(Path(folder))

    assert not [name for name, status in not_ok(result).items() if status is UNKNOWN], result.text()


def test_pem_files_are_read_with_chains_bundles_of_authorities_and_links(site: Site, tmp_path: Path) -> None:
    soon = issue(site.intermediate, "soon.example", begun=70, left=20)
    put(tmp_path, "archive/old1.pem", issue(site.root, "old.example", begun=90, left=-10).pem)
    put(tmp_path, "store/fullchain.pem", soon.pem)
    (tmp_path / "live.pem").symlink_to("store/fullchain.pem")
    put(tmp_path, "ca.crt", site.ca_file.read_bytes() + site.intermediate.cert_pem.bytes())
    put(tmp_path, "notes.txt", b"not read")
    put(tmp_path, "key.pem", soon.key)
    put(tmp_path, "broken.crt", b"-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n")
    put(tmp_path, "empty.cer", b"")

    result = read(tmp_path)

    assert not_ok(result) == {
        "certificates/store/fullchain.pem soon.example: valid for": WARN,
        "certificates/live.pem soon.example: valid for": WARN,
        "certificates/broken.crt number 1: can be read": FAIL,
        "certificates/empty.cer: can be read": UNKNOWN,
    }, result.text()
    assert len(result.named("certificates/ca.crt")) == 4


def test_a_file_of_pem_that_was_copied_in_part_is_unknown(site: Site, tmp_path: Path, good: Issued) -> None:
    authority = site.ca_file.read_bytes()
    put(tmp_path, "two.pem", authority + site.intermediate.cert_pem.bytes()[:-12])
    put(tmp_path, "middle.pem", authority[:-30] + b"\n" + authority)
    put(tmp_path, "dashes.pem", authority + b"-----BEGIN CERTIFICATE-----\nMIIB-\n-----END CERTIFICATE-----\n")
    put(tmp_path, "key.pem", good.pem + good.key[:-20])
    put(tmp_path, "only.pem", authority[:-12])
    put(tmp_path, "whole.pem", good.pem + good.key + authority)

    result = read(tmp_path)

    names = ("two", "middle", "dashes", "key", "only")
    assert not_ok(result) == {f"certificates/{name}.pem: can be read": UNKNOWN for name in names}, result.text()
    observed = str(result.check("certificates/two.pem: can be read").observed)
    assert "two.pem: 1 of 2 blocks of PEM are not complete" in observed


def test_a_list_of_revocations_that_is_out_of_date_fails(tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    for name, due in (("old.pem", now - timedelta(days=1)), ("new.pem", now + timedelta(days=9))):
        built = x509.CertificateRevocationListBuilder(x509.Name([]), now - timedelta(days=10), due)
        put(tmp_path, name, built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    assert not_ok(read(tmp_path)) == {"certificates/old.pem revocations 1: is current for": FAIL}


def test_a_folder_or_a_file_that_cannot_be_read_is_unknown(tmp_path: Path, good: Issued) -> None:
    with folder_for_all() as folder:
        put(folder, "secret/web.pem", good.pem)
        put(folder, "web.pem", good.pem)
        for path in (folder / "secret", folder / "web.pem"):
            path.chmod(0)
        with as_unprivileged_user(folder):
            result = read(folder)

    assert not_ok(result) == {
        "folder certificates: all of it is read": UNKNOWN,
        "certificates/web.pem: can be read": UNKNOWN,
    }, result.text()
    assert read(tmp_path / "missing").outcome == "failed"
    (tmp_path / "empty").mkdir()
    assert read(tmp_path / "empty").outcome == "warned"


# --- served and stored ----------------------------------------------------------------------------------------------


def compare(site: Site, port: int, folder: Path) -> JobResult:
    tls = {"web": {"address": f"127.0.0.1:{port}", "ca_file": str(site.ca_file), "timeout": "60s"}}
    return run_job("certificates", {}, {"tls": tls, "folders": {"certificates": {"path": str(folder)}}})


@pytest.mark.parametrize(
    ("stored_begun", "age", "status"),
    [
        (None, timedelta(hours=2), OK),  # the same one
        (1, timedelta(hours=2), FAIL),
        (1, timedelta(minutes=5), OK),
        (60, timedelta(hours=2), WARN),
    ],
    ids=["same", "newer", "just written", "older"],
)
def test_a_server_presents_the_newest_certificate_that_is_stored_for_its_name(
    site: Site, good: Issued, port: int, tmp_path: Path, stored_begun: int | None, age: timedelta, status: CheckStatus
) -> None:
    issued = good if stored_begun is None else issue(site.intermediate, begun=stored_begun)
    items = [issued.acme("localhost", "127.0.0.1"), issue(site.root, "other.example", begun=0).acme("other.example")]
    put(tmp_path, "acme.json", made.acme_json(items), age=age)

    result = compare(site, port, tmp_path)

    check = result.check("tls web: presents the stored certificate")
    assert check.status is status, result.text()
    assert ("docker restart" in check.hint) is (status is FAIL)


def test_without_a_stored_certificate_for_its_name_nothing_is_compared(site: Site, port: int, tmp_path: Path) -> None:
    put(tmp_path, "a.pem", issue(site.root, "other.example").pem)
    assert compare(site, port, tmp_path).named("presents") == []
