"""A base backup, recovered in the scratch folder by a server that can never be production.

A base backup has the system identifier of production, so that comparing it proves nothing. What proves that the server
behind the socket is the one of this drill is the kernel: the process that listens on it is the child that was started
here (SO_PEERCRED), and its working folder, which Postgres' first process has in its data folder, is the one that was
unpacked here. Besides, it has the name that it was given among its arguments, the data folder and no TCP address. All
of that is shown by a session that can only read, before anything is written through the socket.

Nothing of production's configuration is in force: the files postgresql.conf, pg_hba.conf and pg_ident.conf are made
here, postgresql.auto.conf and the signal files are removed, and table spaces and links are not unpacked. So the server
cannot replicate from production or from its publishers, archive to its archive, or write outside of its folder.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from maintd.checks.backup_sets.writer import os_errors
from maintd.checks.backups import tar
from maintd.checks.backups.base_backup import BaseBackup, lsn, verify_packed
from maintd.checks.backups.stream import ExpansionLimits
from maintd.checks.restore.cluster import MAINTENANCE, PORT, Cluster
from maintd.checks.restore.scratch import Server, full_disk
from maintd.checks.restore.sources import decoded
from maintd.clients.files import shown
from maintd.errors import TargetError

# Recovery fails with smaller ones than the original had (pg_controldata prints them).
_AT_LEAST = {
    "max_connections": "max_connections",
    "max_worker_processes": "max_worker_processes",
    "max_prepared_xacts": "max_prepared_transactions",
    "max_locks_per_xact": "max_locks_per_transaction",
}
_SETTING = re.compile(r"(max_\w+) setting:\s+(\d+)")
_REMOVED = ("postgresql.auto.conf", "recovery.signal", "standby.signal", "postmaster.pid", "postmaster.opts")
_SEEN = """
SELECT system_identifier::text AS id, current_setting('data_directory') AS data,
  current_setting('cluster_name') AS name,
  current_setting('listen_addresses') AS addresses, pg_is_in_recovery() AS recovering,
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text AS lsn
FROM pg_control_system()
"""
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred
_HINT = "nothing was written to it; check bin_dir, and what else uses the scratch folder"


class RecoveredCluster(Cluster):
    """The scratch cluster of a base backup; a context manager that stops it."""

    def unpack(self, path: Path, kind: str) -> BaseBackup:
        """Unpack a base backup and compare each file with its manifest. Raises TargetError."""
        self.make_folders()
        with os_errors(self.folder):
            self._data.mkdir(mode=0o700)
        with decoded(path, kind) as reader:
            try:
                found = verify_packed(reader, ExpansionLimits(), self._write)
            except TargetError as error:
                raise full_disk(self.folder, error.message) or error from error
            for _ in reader.rest():
                pass
        if self._user is not None:
            for folder, _, names in os.walk(self._data):
                for item in (Path(folder), *(Path(folder, name) for name in names)):
                    os.chown(item, self._user.pw_uid, self._user.pw_gid, follow_symlinks=False)
        return found

    def verify(self) -> bool:
        """Run pg_verifybackup, which also reads the WAL; whether it is there. Raises TargetError with what it found."""
        if not Path(self.programs.path("pg_verifybackup")).exists():
            return False
        self.run_program("pg_verifybackup", "--quiet", str(self._data))
        return True

    def recover(self, about: Mapping[str, Any], size_bytes: int) -> str:
        """Start the server, and require that it is this one and has recovered; the LSN that it has reached.

        Raises TargetError before anything is written through the socket.
        """
        self._bootstrap = str(about.get("bootstrap_role") or "postgres")
        name = f"maintd-drill-{secrets.token_hex(8)}"
        own = self.folder / "conf"
        with os_errors(own):
            own.mkdir(mode=0o755)
            (own / "postgresql.conf").write_text("# all settings are arguments\n")
            (own / "pg_hba.conf").write_text("local all all trust\n")
            (own / "pg_ident.conf").write_text("")
            for removed in _REMOVED:
                (self._data / removed).unlink(missing_ok=True)
        lines: list[str] = []
        self._run_as_owner("pg_controldata", str(self._data), lines=lines)
        known = {found[1]: found[2] for line in lines if (found := _SETTING.match(line))}
        more = {setting: known[label] for label, setting in _AT_LEAST.items() if label in known}
        more |= {
            "config_file": str(own / "postgresql.conf"),
            "hba_file": str(own / "pg_hba.conf"),
            "ident_file": str(own / "pg_ident.conf"),
            "cluster_name": name,
            "primary_conninfo": "",
            "restore_command": "",
            "archive_command": "",
            "ssl": "off",
            # A subscription would connect to its publisher, and take the changes that the original waits for.
            "max_logical_replication_workers": "0",
        }
        server = self._launch(more, size_bytes)
        self._require_own(server)
        with self.session(MAINTENANCE, user=self._bootstrap, read_only=True) as session:
            seen = session.one(_SEEN)
        wrong = [
            what
            for what, same in (
                ("data folder", Path(seen["data"]).resolve() == self._data.resolve()),
                ("name", seen["name"] == name),
                ("system identifier", about.get("system_identifier") in (None, seen["id"])),
                ("addresses", seen["addresses"] == ""),
            )
            if not same
        ]
        if wrong:
            text = f"the server behind {shown(self._socket)} is not the one that was started here: another {wrong[0]}"
            raise TargetError(f"{text}: {seen['data']}", _HINT, cause="malformed")
        end = str(about.get("end_lsn") or "0/0")
        if seen["recovering"] or lsn(str(seen["lsn"])) < lsn(end):
            text = f"it has recovered up to {seen['lsn']}, and the backup ends at {end}"
            raise TargetError(text, "restore from another set", cause="failed")
        self._create_worker()
        return str(seen["lsn"])

    def _require_own(self, server: Server) -> None:
        """Require that the socket is that of the server, as the kernel has it. Raises TargetError."""
        path = self._socket / f".s.PGSQL.{PORT}"
        text = f"the server behind {shown(path)} is not the one that was started here"
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid = _CREDENTIALS.unpack(data)[0]
            if pid != server.pid:
                raise TargetError(f"{text}: process {pid} listens on it, not {server.pid}", _HINT, cause="malformed")
            if not Path(f"/proc/{pid}/cwd").samefile(self._data):
                raise TargetError(f"{text}: its data folder is another one", _HINT, cause="malformed")
            # Up to Postgres 14 its statistics use a UDP socket of its own.
            tcp = psutil.Process(pid).net_connections(kind="tcp")
        except (OSError, psutil.Error) as error:
            hint = "let this process see its children in /proc"
            raise TargetError(f"{text}, as far as can be seen: {error}", hint, cause="malformed") from error
        if tcp:
            raise TargetError(f"{text}: it has an address {tcp[0].laddr}", _HINT, cause="malformed")

    def _write(self, member: tar.Member, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Write a member on the way; links never come here."""
        path = self._data / member.name
        with os_errors(path):
            if not member.regular:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                return
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            for chunk in chunks:
                with os_errors(path):
                    file.write(chunk)
                yield chunk
            with os_errors(path):
                file.flush()
