"""Files encrypted with OpenPGP: decrypted by gpg, with a key or passphrase that the operator has configured.

gpg works in a temporary home, so that the operator's keyring is neither written nor searched. Its status lines, not its
exit code, distinguish a missing key from damage.
Source: doc/DETAILS of GnuPG, "Format of the --status-fd output".
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from maintd.checks.backups.stream import CHUNK, DamagedError, Reader, UnreadableError
from maintd.errors import TargetError

ARMOR = b"-----BEGIN PGP MESSAGE-----"

# The first packet: a session key encrypted to a public key (1) or with a passphrase (3), or a marker (10).
_FIRST = frozenset({0x84, 0x85, 0x86, 0x8C, 0x8D, 0x8E, 0xC1, 0xC3, 0xCA, 0xA8})
_KEY_TIMEOUT = 60  # seconds
_STATUS = "[GNUPG:] "
# In any place of a line: gpg reports a wrong passphrase as an ERROR, and asks for one that it does not have.
_NO_KEY = re.compile("NO_SECKEY|MISSING_PASSPHRASE|BAD_PASSPHRASE|INQUIRE_MAXLEN")

# gpg's agent has sockets in its home, S.gpg-agent.browser for one; a path of a socket may have 107 bytes.
_LONGEST_HOME = 80


def looks_encrypted(head: bytes) -> bool:
    """Whether a file begins as an encrypted OpenPGP message."""
    return head.startswith(ARMOR) or (bool(head) and head[0] in _FIRST)


class Gpg:
    """A temporary home of gpg with the configured key; a context manager that deletes it.

    key: a file written by `gpg --export-secret-keys`. passphrase: a file with the passphrase of the key, or of files
    that were encrypted by `gpg --symmetric`. Raises TargetError when gpg is missing or the key cannot be imported.
    """

    def __init__(self, key: Path | None, passphrase: Path | None, work_dir: Path) -> None:
        self._program = shutil.which("gpg") or ""
        if not self._program:
            raise TargetError("gpg is not installed", "install the package gnupg", cause="not_configured")
        for path in (key, passphrase):
            if path is not None:
                try:
                    path.open("rb").close()
                except OSError as error:
                    raise TargetError(f"{path}: {error.strerror}", cause="denied") from error
        # In the work folder, which the daemon deletes also when this process is killed: the home holds the secret key.
        self._home = tempfile.mkdtemp(prefix="gpg-", dir=work_dir)
        self._link: Path | None = None
        if len(self._home) > _LONGEST_HOME:
            self._link = Path(f"/tmp/gpg-{os.getpid()}-{secrets.token_hex(4)}")
            self._link.symlink_to(self._home)
            self._home = str(self._link)
        self._options = ["--batch", "--no-tty", "--homedir", self._home, "--pinentry-mode", "loopback"]
        if passphrase is not None:
            self._options += ["--passphrase-file", str(passphrase)]
        try:
            if key is not None:
                self._import(key)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End gpg's agent and delete the home."""
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                ["gpgconf", "--homedir", self._home, "--kill", "all"],
                check=False,
                capture_output=True,
                timeout=_KEY_TIMEOUT,
            )
        shutil.rmtree(os.path.realpath(self._home), ignore_errors=True)
        if self._link is not None:
            self._link.unlink(missing_ok=True)

    def decrypt(self, source: Reader) -> Iterator[bytes]:
        """Yield the decrypted bytes. Raises DamagedError, or UnreadableError without the key for it."""
        process = subprocess.Popen(
            [self._program, *self._options, "--status-fd", "2", "--decrypt"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        feed = _Feed(source, process.stdin)
        status = _Status(process.stderr)
        try:
            while chunk := process.stdout.read(CHUNK):
                yield chunk
            process.wait()
            feed.join()
            status.join()
        finally:
            process.kill()
            process.wait()
            feed.join()
            status.join()
            process.stdout.close()
            process.stderr.close()
        if feed.error is not None:
            raise feed.error
        status.check(process.returncode)

    def _import(self, key: Path) -> None:
        try:
            done = subprocess.run(
                [self._program, *self._options, "--import", "--", str(key)],
                check=False,
                capture_output=True,
                timeout=_KEY_TIMEOUT,
            )
        except subprocess.TimeoutExpired as error:
            raise TargetError(f"gpg did not import {key} in time", cause="timed_out") from error
        if done.returncode != 0:
            last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
            hint = "write it with gpg --export-secret-keys, and set gpg_passphrase if it has one"
            raise TargetError(f"gpg cannot import {key}: {last}", hint, cause="denied")


class _Feed(threading.Thread):
    """Writes the source to gpg."""

    def __init__(self, source: Reader, to: IO[bytes]) -> None:
        super().__init__(name="to gpg", daemon=True)
        self._source = source
        self._to = to
        self.error: TargetError | OSError | None = None
        self.start()

    def run(self) -> None:
        with suppress(BrokenPipeError):  # gpg has ended; its status has the reason
            try:
                for piece in self._source.rest():
                    self._to.write(piece)
            except BrokenPipeError:
                raise
            except (TargetError, OSError) as error:
                self.error = error
        with suppress(OSError):
            self._to.close()


class _Status(threading.Thread):
    """Reads gpg's status lines and messages."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(name="status of gpg", daemon=True)
        self._stream = stream
        self._seen: set[str] = set()
        self._no_key = False
        self._messages: deque[str] = deque(maxlen=3)
        self.start()

    def run(self) -> None:
        while line := self._stream.readline(4096):
            text = line.decode(errors="replace").strip()
            if text.startswith(_STATUS):
                self._seen.add(text.removeprefix(_STATUS).partition(" ")[0])
                self._no_key = self._no_key or _NO_KEY.search(text) is not None
            elif text:
                self._messages.append(text[:200])

    def check(self, exit_code: int) -> None:
        """Raise unless the whole message was decrypted and its integrity is proven."""
        last = self._messages[-1] if self._messages else f"gpg exited with {exit_code}"
        if "DECRYPTION_OKAY" in self._seen and "GOODMDC" in self._seen and exit_code == 0:
            return
        if self._no_key and "DECRYPTION_OKAY" not in self._seen:
            raise UnreadableError(
                f"is encrypted for another key or passphrase: {last}", "set gpg_key or gpg_passphrase"
            )
        if "DECRYPTION_OKAY" in self._seen and "GOODMDC" not in self._seen:
            raise UnreadableError("OpenPGP: its integrity is not protected", "encrypt it with a current gpg")
        raise DamagedError(f"OpenPGP: {last}")
