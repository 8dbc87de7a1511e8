"""Files encrypted with age: decrypted with an identity, or without one checked for their structure.

Source: the age format, https://age-encryption.org/v1
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyrage

from maintd.checks.backups.stream import DamagedError, Reader, UnreadableError
from maintd.errors import TargetError

MAGIC = b"age-encryption.org/v1\n"
ARMOR = b"-----BEGIN AGE ENCRYPTED FILE-----"

_HEADER_MAX = 1 << 20
_NONCE = 16
_TAG = 16
_SEALED_CHUNK = 65536 + _TAG
_STANZA = re.compile(rb"-> [\x21-\x7e]+(?: [\x21-\x7e]+)*\n(?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63}\n")
_MAC = re.compile(rb"--- [A-Za-z0-9+/]{43}\n")


def read_identities(path: Path) -> tuple[pyrage.x25519.Identity, ...]:
    """Read the X25519 identities of a key file. Raises TargetError(cause="denied") when there is none."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        found = tuple(
            pyrage.x25519.Identity.from_str(line.strip()) for line in lines if line.startswith("AGE-SECRET-KEY-")
        )
    except (OSError, UnicodeDecodeError, pyrage.IdentityError) as error:
        raise TargetError(
            f"identity file {path}: {error}", "set a key file written by age-keygen", cause="denied"
        ) from error
    if not found:
        raise TargetError(f"identity file {path}: no AGE-SECRET-KEY", cause="denied")
    return found


def decrypt(source: Reader, identities: Sequence[pyrage.x25519.Identity]) -> Iterator[bytes]:
    """Yield the decrypted bytes; every chunk is authenticated first.

    Without identities only the structure is checked, and UnreadableError is raised.
    """
    if not identities:
        check_structure(source)
        raise UnreadableError("is encrypted, and no identity is set", "set the param identity to an age key file")
    pump = _Pump(source, identities)
    try:
        yield from pump.chunks()
    finally:
        pump.stop()


def check_structure(source: Reader) -> None:
    """Check header and chunk sizes without a key. Raises DamagedError; cannot detect a flipped bit in a chunk."""
    head = source.peek(_HEADER_MAX)
    at = len(MAGIC)
    while stanza := _STANZA.match(head, at):
        at = stanza.end()
    mac = _MAC.match(head, at)
    if mac is None or at == len(MAGIC):
        raise DamagedError(f"age: the header is broken near byte {at}")
    source.skip(mac.end())
    payload = sum(len(piece) for piece in source.rest()) - _NONCE
    last = payload % _SEALED_CHUNK
    if payload < _TAG or 0 < last < _TAG or (last == _TAG and payload > _SEALED_CHUNK):
        raise DamagedError("age: ends in the middle of a chunk")


class _Pump:
    """Turns pyrage, which writes to a file object, into an iterator of chunks, by a thread and a bounded queue."""

    def __init__(self, source: Reader, identities: Sequence[pyrage.x25519.Identity]) -> None:
        self._source = source
        self._identities = list(identities)
        self._queue: queue.Queue[bytes | Exception | None] = queue.Queue(maxsize=64)
        self._stopped = False
        self._thread = threading.Thread(target=self._decrypt, name="age", daemon=True)

    def chunks(self) -> Iterator[bytes]:
        self._thread.start()
        while (item := self._queue.get()) is not None:
            if isinstance(item, pyrage.DecryptError):
                raise UnreadableError(f"age: {item}", "it was encrypted for other identities") from item
            if isinstance(item, TargetError):
                raise item
            if isinstance(item, Exception):
                raise DamagedError(f"age: {item}, near byte {self._source.offset}") from item
            yield item

    def stop(self) -> None:
        """End the thread, also when it waits for a reader that has stopped."""
        self._stopped = True
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def write(self, data: bytes) -> int:
        """Called by pyrage."""
        if self._stopped:
            raise BrokenPipeError("the reader has stopped")
        self._queue.put(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Called by pyrage; nothing is buffered."""

    def _decrypt(self) -> None:
        try:
            pyrage.decrypt_io(self._source, self, self._identities)
        except (pyrage.DecryptError, OSError, ValueError, TargetError) as error:
            self._queue.put(error)
        self._queue.put(None)
