"""Backups that gpg encrypted, and append-only files of Redis, made by the real programs."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import sample_backups as made
from support.job_runs import JobResult, run_job
from support.servers.base import require_program, wait_for
from support.servers.redis import redis

from maintd.model.evidence import CheckStatus

OK, FAIL, UNKNOWN, WARN = CheckStatus.OK, CheckStatus.FAIL, CheckStatus.UNKNOWN, CheckStatus.WARN
TAR = made.gz(made.tar_of(made.SECRETS))


def verify(root: Path, **params: object) -> JobResult:
    return run_job("backup_verify", {"root": str(root), **params})


@dataclass(frozen=True)
class Keys:
    """An exported secret key, its passphrase, and files that gpg encrypted."""

    key: Path
    passphrase: Path
    public: bytes
    armored: bytes
    symmetric: bytes
    nothing: bytes  # encrypted


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    folder = tmp_path_factory.mktemp("keys")
    passphrase = made.write(folder / "passphrase", b"correct horse")
    # The agent's socket needs a short path.
    with tempfile.TemporaryDirectory(prefix="k-", dir="/tmp") as home:
        program = require_program("gpg", "gnupg")

        def gpg(*arguments: str, data: bytes = b"") -> bytes:
            argv = [program, "--batch", "--no-tty", "--homedir", home, "--pinentry-mode", "loopback", "--trust-model"]
            argv += ["always", "--passphrase-file", str(passphrase), *arguments]
            return subprocess.run(argv, input=data, check=True, capture_output=True).stdout

        gpg("--quick-gen-key", "backup@example.org", "rsa2048", "default", "never")
        fingerprint = gpg("--list-keys", "--with-colons").decode().split("\nfpr:")[1].split(":")[8]
        gpg("--quick-add-key", fingerprint, "rsa2048", "encr", "never")
        key = made.write(folder / "key.gpg", gpg("--export-secret-keys", "backup@example.org"))
        to = ("-r", "backup@example.org")
        yield Keys(
            key,
            passphrase,
            gpg("--encrypt", *to, data=TAR),
            gpg("--armor", "--encrypt", *to, data=TAR),
            gpg("--symmetric", "--cipher-algo", "AES256", data=TAR),
            gpg("--symmetric"),
        )
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


@pytest.mark.server
@pytest.mark.parametrize("form", ["public", "armored", "symmetric"])
def test_a_backup_that_gpg_encrypted_is_read_with_its_key(form: str, keys: Keys, tmp_path: Path) -> None:
    made.write(tmp_path / "secrets.tar.gz.gpg", getattr(keys, form))
    expect = {"secrets*": {"members": {"admin_token": 32}}}

    result = verify(tmp_path, gpg_key=str(keys.key), gpg_passphrase=str(keys.passphrase), expect=expect)

    assert result.outcome == "succeeded", result.text()
    assert result.check("secrets.tar.gz.gpg: decoded").observed == "tar.gz.gpg"
    assert result.check("secrets.tar.gz.gpg: size of admin_token").observed == 40


@pytest.mark.server
@pytest.mark.parametrize("deep", [0, 60, 120])
def test_the_secret_key_is_only_in_the_work_folder_of_the_run(deep: int, keys: Keys, tmp_path: Path) -> None:
    made.write(tmp_path / "a.tar.gz.gpg", keys.public)
    homes: set[Path] = set()
    with tempfile.TemporaryDirectory(prefix="w-") as name:
        folder = Path(name, "d" * deep) if deep else Path(name)

        result = run_job(
            "backup_verify",
            {"root": str(tmp_path), "gpg_key": str(keys.key), "gpg_passphrase": str(keys.passphrase)},
            folder=folder,
            at_report=lambda item: homes.update((folder / "work").glob("gpg-*")),
        )

        assert result.outcome == "succeeded", result.text()
        assert len(homes) == 1
        assert not any(home.exists() for home in homes)
        assert [link for link in Path("/tmp").glob("gpg-*") if link.is_symlink() and name in str(link.readlink())] == []


@pytest.mark.server
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty inside", "another format"])
def test_a_damaged_backup_of_gpg_fails(damage: str, keys: Keys, tmp_path: Path) -> None:
    data = keys.symmetric
    if damage == "flipped":
        data = made.flipped(data, len(data) - 40)
    elif damage == "cut":
        data = data[:-30]
    elif damage == "another format":
        data = TAR
    else:
        data = keys.nothing
    made.write(tmp_path / "a.tar.gz.gpg", data)

    result = verify(tmp_path, gpg_passphrase=str(keys.passphrase))

    assert result.check("a.tar.gz.gpg: decoded").status is FAIL, result.text()


@pytest.mark.server
@pytest.mark.parametrize(
    "given", ["none", "another passphrase", "a passphrase for a key", "no key file", "a bad key file"]
)
def test_without_the_right_key_a_backup_of_gpg_is_unknown_and_the_next_is_read(
    given: str, keys: Keys, tmp_path: Path
) -> None:
    other = made.write(tmp_path / "other", b"wrong")
    root = tmp_path / "b"
    made.write(root / "a.tar.gz.gpg", keys.symmetric if given == "another passphrase" else keys.public)
    made.write(root / "b.tar.gz", TAR)
    params = {
        "none": {},
        "another passphrase": {"gpg_passphrase": str(other)},
        "a passphrase for a key": {"gpg_passphrase": str(keys.passphrase)},
        "no key file": {"gpg_key": str(tmp_path / "nothing")},
        "a bad key file": {"gpg_key": str(other)},
    }[given]

    result = verify(root, **params)

    assert result.check("a.tar.gz.gpg: decoded").status is UNKNOWN, result.text()
    assert result.check("b.tar.gz: decoded").status is OK
    assert result.outcome == "unknown"


@pytest.fixture(scope="module")
def append_only() -> dict[str, bytes]:
    """The folder of a Redis with a base and two increments' worth of commands."""
    # Otherwise a command may be written up to two seconds after its reply.
    with redis("--appendonly", "yes", "--appendfsync", "always", "--aof-timestamp-enabled", "yes") as server:
        client = server.client()
        try:
            for number in range(300):
                client.set(f"before:{number}", "x\r\n" * number)
            client.bgrewriteaof()
            wait_for(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the rewrite")
            client.set("after", b"\0\xff" * 100)
            pipe = client.pipeline(transaction=True)
            pipe.set("a", 1).rpush("b", 2).execute()
        finally:
            client.close()
        folder = server.folder / "appendonlydir"
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def copied(append_only: dict[str, bytes], root: Path) -> Path:
    for name, data in append_only.items():
        made.write(root / "appendonlydir" / name, data)
    (root / "appendonlydir").chmod(0o700)
    return root / "appendonlydir"


def part(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.mark.server
def test_append_only_files_are_one_backup_and_read_to_the_last_command(
    append_only: dict[str, bytes], tmp_path: Path
) -> None:
    copied(append_only, tmp_path)

    result = verify(tmp_path)

    assert result.outcome == "succeeded", result.text()
    assert result.named("backups in")[0].observed == 1
    assert result.check("appendonlydir: decoded").observed == "append-only files"
    # 300 keys in the base; SELECT, SET, MULTI, SET, RPUSH, EXEC, as redis-check-aof counts them.
    assert result.check("appendonlydir: entries").observed == 306


@pytest.mark.server
@pytest.mark.parametrize(
    "damage",
    ["no increment", "no base", "cut base", "flipped base", "junk", "odd manifest", "two manifests", "odd length"],
)
def test_damaged_append_only_files_fail(damage: str, append_only: dict[str, bytes], tmp_path: Path) -> None:
    folder = copied(append_only, tmp_path)
    base, increment, manifest = (part(folder, pattern) for pattern in ("*.base.rdb", "*.incr.aof", "*.manifest"))
    data = base.read_bytes()
    {
        "no increment": increment.unlink,
        "no base": base.unlink,
        "cut base": lambda: base.write_bytes(data[:-20]),
        "flipped base": lambda: base.write_bytes(made.flipped(data, len(data) // 2)),
        "junk": lambda: increment.write_bytes(increment.read_bytes() + b"junk" * 9),
        "odd manifest": lambda: manifest.write_bytes(b"file ../../etc/passwd seq 1 type b\n"),
        "two manifests": lambda: (folder / "b.aof.manifest").write_bytes(b""),
        "odd length": lambda: increment.write_bytes(b"*99999999999999999999\r\n"),
    }[damage]()

    result = verify(tmp_path)

    assert result.check("appendonlydir: decoded").status is FAIL, result.text()


@pytest.mark.server
@pytest.mark.parametrize("cut", [1, 3, 10, 20])
def test_an_increment_that_ends_within_a_command_or_transaction_warns(
    cut: int, append_only: dict[str, bytes], tmp_path: Path
) -> None:
    increment = part(copied(append_only, tmp_path), "*.incr.aof")
    increment.write_bytes(increment.read_bytes()[:-cut])

    result = verify(tmp_path)

    assert result.check("appendonlydir: bytes after the last whole command").status is WARN, result.text()


@pytest.mark.server
def test_a_file_of_commands_is_read_also_after_a_snapshot_at_its_start(
    append_only: dict[str, bytes], tmp_path: Path
) -> None:
    commands = next(data for name, data in append_only.items() if name.endswith(".incr.aof"))
    base = next(data for name, data in append_only.items() if name.endswith(".base.rdb"))
    made.write(tmp_path / "commands.aof", commands)
    made.write(tmp_path / "commands.aof.gz", made.gz(commands))
    made.write(tmp_path / "cut.aof", commands[:-5])
    made.write(tmp_path / "cut.aof.gz", made.gz(commands)[:-9])
    made.write(tmp_path / "mixed.aof", base + commands)
    made.write(tmp_path / "mixed.aof.gz", made.gz(base + commands))
    made.write(tmp_path / "snapshot.aof", base)
    made.write(tmp_path / "cut-after-a-snapshot.aof", base + commands[:-5])
    made.write(tmp_path / "cut-within-a-snapshot.aof", base[: len(base) // 2])
    made.write(tmp_path / "flipped.aof", made.flipped(base, base.index(b"before:7")) + commands)
    made.write(tmp_path / "newer.aof", b"REDIS9999" + base[9:] + commands)
    made.write(tmp_path / "junk.aof", base + b"junk" + commands)

    result = verify(tmp_path)

    statuses = {path.name: result.check(f"{path.name}: decoded").status for path in tmp_path.iterdir()}
    assert statuses == {
        "commands.aof": OK,
        "commands.aof.gz": OK,
        "cut.aof": UNKNOWN,
        "cut.aof.gz": FAIL,
        "mixed.aof": OK,
        "mixed.aof.gz": OK,
        "snapshot.aof": OK,
        "cut-after-a-snapshot.aof": UNKNOWN,
        "cut-within-a-snapshot.aof": FAIL,
        "flipped.aof": FAIL,
        "newer.aof": UNKNOWN,
        "junk.aof": FAIL,
    }, result.text()
    # 300 keys and 6 commands, as in the folder
    assert {result.check(f"{name}: entries").observed for name in ("mixed.aof", "mixed.aof.gz")} == {306}
