"""The root of a Debian host as files: dpkg's status, apt's lists, /run, /boot and /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from maintd.checks.host import mounted

KERNEL = "6.12.48-amd64"
LIBC = "7f00-7f01 r-xp 00000000 fe:00 1234  /usr/lib/x86_64-linux-gnu/libc.so.6"
SSHD = "0::/system.slice/ssh.service\n"


def stanza(name: str, version: str, status: str | None = "install ok installed", architecture: str = "amd64") -> str:
    lines = [f"Package: {name}", *([f"Status: {status}"] if status else []), f"Architecture: {architecture}"]
    return "\n".join([*lines, f"Version: {version}", "Description: a text", " Package: not a field", ""]) + "\n"


def release(label: str, suite: str, **fields: str) -> str:
    more = "".join(f"{name}: {value}\n" for name, value in fields.items())
    return (
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nLabel: {label}\nSuite: {suite}\n{more}MD5Sum:\n 0 1 a\n"
    )


@dataclass
class HostRoot:
    """A host on which all is in order; a test changes what it is about."""

    root: Path
    lists: Path = field(init=False)

    def __post_init__(self) -> None:
        self.lists = self.root / "var/lib/apt/lists"
        self.write("etc/os-release", 'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n')
        self.installed(stanza("libc6", "2.41-12"), stanza("openssl", "3.5.1-1"), stanza("unattended-upgrades", "2.12"))
        self.list("deb_dists_trixie", release("Debian", "stable"), stanza("libc6", "2.41-12", None))
        self.list("sec_dists_trixie-security", release("Debian-Security", "stable-security"))
        self.write("run/utmp", "")
        self.write(f"boot/vmlinuz-{KERNEL}", "")
        self.write("proc/sys/kernel/osrelease", f"{KERNEL}\n")
        self.process(1, "systemd", "0::/init.scope\n")
        self.process(70, "sshd", SSHD)

    def write(self, path: str, text: str | bytes, age: timedelta = timedelta(0)) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        at = (datetime.now(UTC) - age).timestamp()
        os.utime(file, (at, at))
        return file

    def installed(self, *stanzas: str) -> None:
        self.write("var/lib/dpkg/status", "\n".join(stanzas))

    def list(self, name: str, about: str, *stanzas: str, age: timedelta = timedelta(0)) -> None:
        self.write(f"var/lib/apt/lists/{name}_InRelease", about, age)
        self.write(f"var/lib/apt/lists/{name}_main_binary-amd64_Packages", "\n".join(stanzas), age)

    def security(self, *stanzas: str) -> None:
        self.list("sec_dists_trixie-security", release("Debian-Security", "stable-security"), *stanzas)

    def process(self, pid: int, name: str, group: str, maps: str = LIBC) -> None:
        for file, text in (("comm", f"{name}\n"), ("cgroup", group), ("maps", f"{maps}\n")):
            self.write(f"proc/{pid}/{file}", text)


@contextmanager
def this_machine_as_a_host() -> Iterator[None]:
    """Have this machine taken for a host, also where the tests run in a container."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mounted, "MARKS", ())
        patch.delenv(mounted.KUBERNETES, raising=False)
        yield
