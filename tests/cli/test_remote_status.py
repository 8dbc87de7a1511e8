"""`maintd --url … status`: the shortcut that imports almost nothing, compared with the full program."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support.http_services import (
    Dripping,
    EndlessHeaders,
    Reply,
    WithoutLength,
    http_service,
    port_that_hangs,
    port_that_sends,
    served,
)
from support.servers.base import wait_for
from support.servers.maintd import MAINTD, CommandResult, RunningDaemon, clean_environ, maintd_daemon
from support.servers.tls import Authority, authority, tls_front

from maintd.__main__ import _plain_status

FULL = "import sys; from maintd.cli.main import main; sys.exit(main())"
SHORT = "import sys; from maintd.__main__ import main; sys.exit(main())"
IMPATIENT = "import maintd.__main__ as m, maintd.client.client as c; m.TIMEOUT = c.TIMEOUT = 0.5\n"


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with tempfile.TemporaryDirectory(prefix="maintd-remote-") as folder, maintd_daemon(Path(folder)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def own(daemon: RunningDaemon) -> Authority:
    return authority(daemon.cwd / "ca")


@pytest.fixture(scope="module")
def tls_url(daemon: RunningDaemon, own: Authority) -> Iterator[str]:
    with tls_front(int(daemon.page.rpartition(":")[2]), own) as port:
        yield f"https://127.0.0.1:{port}"


def token_file(daemon: RunningDaemon, name: str, *options: str) -> Path:
    path = daemon.cwd / name
    if not path.exists():
        path.touch(mode=0o600)
        made = daemon.maintd("token", "create", "--role", "viewer", *options, name)
        assert made.code == 0, made.err
        path.write_text(made.out)
    return path


def run(daemon: RunningDaemon, program: str, *words: str | Path, **more: str) -> CommandResult:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        cwd=daemon.cwd,
        env=clean_environ(**daemon.environ, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


def both(daemon: RunningDaemon, *words: str | Path, before: str = "", **more: str) -> tuple[CommandResult, ...]:
    """The command with and without the shortcut."""
    return tuple(run(daemon, before + program, *words, **more) for program in (SHORT, FULL))


def without_times(text: str) -> str:
    """A status without its first line, which has the age of the daemon, and how long ago runs were, which sets the
    width of a column."""
    return re.sub(r" +", " ", re.sub(r"just now|\d+\S* ago", "", text.partition("\n")[2]))


def test_status_has_the_same_text_and_exit_code_over_each_way(
    daemon: RunningDaemon, own: Authority, tls_url: str
) -> None:
    token = ("--token-file", token_file(daemon, "any"))
    ways: list[tuple[str | Path, ...]] = [
        (),
        ("--url", daemon.page, *token),
        ("--url", f"{daemon.page}/", *token),
        (f"--url={daemon.page}/api/v1", *token),
        ("--url", tls_url, *token, "--ca-file", own.ca_file),
    ]
    daemon.maintd("trigger", "stumbling", "--wait")

    results = [each for way in ways for each in both(daemon, *way, "status", COLUMNS="100")]

    assert {(found.code, found.err) for found in results} == {(1, "")}
    assert "stumbling" in results[0].out
    assert len({without_times(found.out) for found in results}) == 1
    for way in ways:
        assert [(found.code, found.out) for found in both(daemon, *way, "status", "--quiet")] == [(0, "")] * 2


def test_url_token_and_authorities_may_be_in_the_environment(
    daemon: RunningDaemon, own: Authority, tls_url: str
) -> None:
    path = token_file(daemon, "any")
    environ = {"MAINTD_URL": tls_url, "MAINTD_TOKEN_FILE": str(path), "MAINTD_CA_FILE": str(own.ca_file)}

    short, full = both(daemon, "status", **environ)
    with_value, _ = both(daemon, "status", **environ, MAINTD_TOKEN=path.read_text())

    assert short.code == full.code == with_value.code
    assert without_times(short.out) == without_times(full.out) == without_times(with_value.out) != ""


def test_a_token_for_some_entries_shows_their_status(daemon: RunningDaemon) -> None:
    words = ("--url", daemon.page, "--token-file", token_file(daemon, "greet", "--entries", "greet*"), "status")

    short, full = both(daemon, *words)

    assert "greeting" in short.out
    assert "stumbling" not in short.out
    assert (short.code, without_times(short.out)) == (full.code, without_times(full.out))


@pytest.mark.parametrize(
    ("scheme", "more"),
    [("http", set[str]()), ("https", {"ssl", "socket"})],
)
def test_status_at_a_url_imports_almost_nothing(
    daemon: RunningDaemon, own: Authority, tls_url: str, scheme: str, more: set[str]
) -> None:
    url = tls_url if scheme == "https" else daemon.page
    words = ["--url", url, "--token-file", token_file(daemon, "any"), "--ca-file", own.ca_file, "status"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", MAINTD, *words],
        cwd=daemon.cwd,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}

    assert done.stdout.startswith("maintd ")
    assert more <= imported
    for heavy in {"click", "http.client", "pathlib", "typing", "urllib.parse", "maintd.errors", "ssl"} - more:
        assert heavy not in imported, heavy


# --- what is wrong: the same message and exit code as without the shortcut ---


@contextmanager
def refusing() -> Iterator[str]:
    yield "http://127.0.0.1:1"


@contextmanager
def hanging() -> Iterator[str]:
    with port_that_hangs() as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def tls_hanging() -> Iterator[str]:
    with port_that_hangs() as port:
        yield f"https://127.0.0.1:{port}"


def sending(text: bytes) -> Callable[[], AbstractContextManager[str]]:
    @contextmanager
    def start() -> Iterator[str]:
        with port_that_sends(text) as port:
            yield f"http://127.0.0.1:{port}"

    return start


def replying(reply: Reply) -> Callable[[], AbstractContextManager[str]]:
    return lambda: http_service({"/text/status": reply, "/api/v1/status": reply, "/readyz": reply})


MARK = {"Maintd-Api": "1"}
STORE_AWAY = b'{"error": {"code": "store_unavailable", "message": "the store is away", "hint": null}}'
BAD_SERVERS: dict[str, tuple[Callable[[], AbstractContextManager[str]], int, int, str]] = {
    "refused": (refusing, 6, 6, "connection refused"),
    "hanging": (hanging, 6, 6, "did not answer within"),
    "tls-hanging": (tls_hanging, 6, 6, "did not answer within"),
    "dripping": (lambda: served(Dripping), 6, 6, "did not answer within"),
    "endless": (lambda: served(WithoutLength), 1, 1, "is larger than 64 MB"),
    "endless-headers": (lambda: served(EndlessHeaders), 6, 6, "the answer is not HTTP"),
    "no-http": (sending(b"SSH-2.0-OpenSSH_9.2\r\n"), 6, 6, "no daemon answers"),
    "cut-off": (sending(b"HTTP/1.1 200 OK\r\nMaintd-Api: 1\r\nContent-Length: 99\r\n\r\n{"), 6, 6, "is not complete"),
    "proxy-error": (replying(Reply(b"<h1>nginx</h1>", 502, "text/html")), 6, 6, "502 with text/html"),
    "redirect": (replying(Reply(b"", 302, headers={"Location": "https://login.example/"})), 6, 6, "a redirect to"),
    "other-server": (replying(Reply(b"fine", 200, "text/plain")), 6, 6, "answered by another server"),
    "store-away": (replying(Reply(STORE_AWAY, 503, headers=MARK)), 1, 1, "the store is away"),
    "not-ready": (replying(Reply(b'{"ok": false, "problems": []}', 503, headers=MARK)), 1, 1, "answered 503"),
}


@pytest.mark.parametrize("name", BAD_SERVERS)
def test_a_server_that_does_not_answer_well_is_reported_as_by_the_full_program(
    daemon: RunningDaemon, name: str
) -> None:
    start, code, health, text = BAD_SERVERS[name]
    with start() as url:
        before = IMPATIENT if text == "did not answer within" else ""
        words = ("--url", url, "--token-file", token_file(daemon, "any"), "status")
        short, full = both(daemon, *words, before=before)
        quiet_short, quiet_full = both(daemon, *words, "--quiet")

    assert text in full.err
    assert (short.code, short.out, short.err) == (full.code, full.out, full.err)
    assert short.code == code
    assert (quiet_short.code, quiet_short.out, quiet_short.err) == (quiet_full.code, quiet_full.out, quiet_full.err)
    assert quiet_short.code == health


def test_a_health_check_of_a_server_that_hangs_ends_within_the_containers_timeout(daemon: RunningDaemon) -> None:
    for start in (hanging, tls_hanging, lambda: served(Dripping)):
        with start() as url:
            begun = time.monotonic()
            done = run(daemon, SHORT, "--url", url, "status", "--quiet")
            duration = time.monotonic() - begun
            begun = time.monotonic()
            run(daemon, SHORT, "--url", "http://127.0.0.1:1", "status", "--quiet")
            start_of_python = time.monotonic() - begun

        assert (done.code, done.out, done.err) == (6, "", "")
        assert 3.9 < duration < 15 + start_of_python


def test_certificates_that_are_not_trusted_are_reported_as_by_the_full_program(
    daemon: RunningDaemon, own: Authority, tls_url: str, tmp_path: Path
) -> None:
    other = authority(tmp_path, name="127.0.0.2")
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    path = token_file(daemon, "any")
    token = ("--token-file", path)
    port = int(daemon.page.rpartition(":")[2])
    with tls_front(port, other) as front:
        wrong_name = f"https://127.0.0.1:{front}"
        cases: list[tuple[tuple[str | Path, ...], int, str]] = [
            (("--url", tls_url, *token), 6, "its certificate is not trusted"),
            (("--url", wrong_name, *token, "--ca-file", other.ca_file), 6, "its certificate is not trusted"),
            (("--url", tls_url, *token, "--ca-file", empty), 2, "cannot read certificates"),
            (("--url", tls_url, *token, "--ca-file", tmp_path / "none.pem"), 2, "cannot read certificates"),
            (("--url", daemon.page.replace("http:", "https:"), *token), 6, "no TLS connection"),
        ]
        for words, code, text in cases:
            short, full = both(daemon, *words, "status")
            assert (short.code, short.out, short.err) == (full.code, full.out, full.err)
            assert (short.code, text in short.err) == (code, True), short.err
            assert path.read_text().strip() not in short.err
            health, full_health = both(daemon, *words, "status", "--quiet")
            assert (health.code, health.err) == (full_health.code, full_health.err)
            assert health.code == code

    short, full = both(daemon, "--insecure", "--url", tls_url, *token, "status")
    assert (short.code, without_times(short.out)) == (full.code, without_times(full.out))
    assert "warning: --insecure" in short.err


@pytest.fixture
def other() -> Iterator[RunningDaemon]:
    """A daemon that has not been sent wrong tokens yet: each further one is answered more slowly."""
    with tempfile.TemporaryDirectory(prefix="maintd-remote-") as folder, maintd_daemon(Path(folder)) as daemon:
        yield daemon


@pytest.mark.parametrize("kind", ["wrong", "expired", "revoked"])
def test_a_token_that_is_refused_is_reported_as_by_the_full_program(
    other: RunningDaemon, own: Authority, kind: str
) -> None:
    if kind == "wrong":
        path = other.cwd / "wrong"
        path.touch(mode=0o600)
        path.write_text("maintd_" + "A" * 43)
    else:
        path = token_file(other, kind, "--expires", "3s" if kind == "expired" else "1d")
        if kind == "revoked":
            other.maintd("token", "revoke", kind)
        wait_for(lambda: other.maintd("token", "list", "--json").json["tokens"][0]["state"] == kind, f"it is {kind}")
    text = "the token is unknown" if kind == "wrong" else f'token "{kind}" is {kind}'
    with tls_front(int(other.page.rpartition(":")[2]), own) as port:
        words = ("--url", f"https://127.0.0.1:{port}", "--ca-file", own.ca_file, "--token-file", path, "status")
        short, full = both(other, *words)
        health, full_health = both(other, *words, "--quiet")

        assert text in short.err
        assert "maintd token create" in short.err
        assert (short.code, short.out, short.err) == (full.code, full.out, full.err)
        assert (health.code, health.out, health.err) == (full_health.code, full_health.out, full_health.err)
        assert path.read_text().strip() not in short.err


# --- what the shortcut leaves to the full program ---


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("URL", "TOKEN", "TOKEN_FILE", "CA_FILE", "SOCKET", "STATE_DIR", "CONFIG"):
        monkeypatch.delenv(f"MAINTD_{name}", raising=False)
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text("maintd_x\n")
    return path


@pytest.mark.parametrize(
    "url",
    [
        "ftp://maintd.example",
        "https://",
        "https://maintd.example:0",
        "https://maintd.example:99999",
        "https://maintd.example:x",
        "https://ada:secret@maintd.example",
        "https://maintd.example?a=b",
        "https://maintd.example#top",
        "https://[::1]:8420",
        "https://maintd.example/a b",
        "https://mäintd.example",
        "/run/maintd.sock",
    ],
)
def test_a_url_that_is_not_plain_is_left_to_the_full_program(token: Path, url: str) -> None:
    assert _plain_status(["--url", url, "--token-file", str(token), "status"]) is None


def test_options_that_contradict_each_other_are_left_to_the_full_program(
    token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = ["--url", "https://maintd.example"]

    assert _plain_status([*url, "--socket", "/run/a.sock", "status"]) is None
    assert _plain_status(["--token-file", str(token), "status"]) is None
    assert _plain_status([*url, "--token-file", str(tmp_path / "none"), "status"]) is None
    assert _plain_status([*url, "--insecure", "status"]) is None
    token.chmod(0o644)
    assert _plain_status([*url, "--token-file", str(token), "status"]) is None
    token.chmod(0o600)
    token.write_text("two words")
    assert _plain_status([*url, "--token-file", str(token), "status"]) is None
    monkeypatch.setenv("_MAINTD_COMPLETE", "bash_complete")
    assert _plain_status([*url, "status"]) is None


def test_a_socket_on_the_command_line_takes_precedence_over_a_url_of_the_environment(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAINTD_URL", "https://maintd.example/team/api/v1/")
    monkeypatch.setenv("MAINTD_TOKEN_FILE", str(token))

    local = _plain_status(["--socket", "/run/a.sock", "status"])
    remote = _plain_status(["status", "--quiet"])

    assert local is not None
    assert (local[0].scheme, local[0].path, local[0].token) == ("unix", "/run/a.sock", "")
    assert remote is not None
    place, quiet = remote
    assert (place.scheme, place.host, place.port, place.path) == ("https", "maintd.example", 443, "/team")
    assert (place.token, place.ca_file, quiet) == ("maintd_x", None, True)
