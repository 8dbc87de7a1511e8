"""A journald in its own mount namespace with an empty /run; it records the true sender of each message."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.servers.base import needs_root, require_program

JOURNALD = "/lib/systemd/systemd-journald"
# Starts journald, runs the sender, stops journald and copies its files.
_SCRIPT = """
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
"$1" & daemon=$!
"$2" - < "$3"
status=$?
kill $daemon; wait $daemon
cp -r /run/log/journal/. "$4"
exit $status
"""
_SEND = """
import ctypes, itertools, os, socket, struct, time
from pathlib import Path
where = "/run/systemd/journal/socket"
deadline = time.monotonic() + 20
while not Path(where).exists():
    assert time.monotonic() < deadline, "no journald"
    time.sleep(0.02)


def send(program, messages):
    ctypes.CDLL(None).prctl(15, program.encode(), 0, 0, 0)  # PR_SET_NAME: what the journal calls _COMM
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(where)
        for message in messages:
            field = b"MESSAGE\\n" + struct.pack("<Q", len(message)) + message + b"\\n"
            sock.send(field + b"SYSLOG_IDENTIFIER=sshd\\n")
    # journald reads /proc of the sender when it receives the message, so the sender must still exist then.
    while not any(messages[-1] in path.read_bytes() for path in Path("/run/log/journal").glob("*/*.journal")):
        assert time.monotonic() < deadline, "not written"
        time.sleep(0.02)


for program, group in itertools.groupby(MESSAGES, key=lambda one: one[0]):
    # journald caches what it knows of a process, so each name has its own process.
    child = os.fork()
    if not child:
        send(program, [message for _, message in group])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@dataclass(frozen=True)
class JournalMessage:
    """A message, and the name of the process that sends it."""

    program: str
    message: bytes


def journal(folder: Path, messages: Sequence[JournalMessage]) -> Path:
    """Return a folder of journals written by a real journald, with entries of the last seconds."""
    require_program(JOURNALD, "systemd")
    require_program("journalctl", "systemd")
    needs_root("starts a journald with a /run of its own")
    script, send, out = folder / "journald.sh", folder / "send.py", folder / "journal"
    script.write_text(_SCRIPT)
    send.write_text(f"MESSAGES = {[(one.program, one.message) for one in messages]!r}\n{_SEND}")
    out.mkdir()
    started = time.monotonic()
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", script, JOURNALD, sys.executable, send, out],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{time.monotonic() - started:.1f} s\n{done.stdout}\n{done.stderr}"
    return out
