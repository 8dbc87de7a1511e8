"""The fuzz targets by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fuzz.clients import host_files, servers
from fuzz.config_reader import configurations
from fuzz.lock_files import locks
from fuzz.log_readers import logs
from fuzz.properties import Opened, calendars, reports, rules, settings_files, values
from fuzz.readers import answers, archives, certificates, folders
from fuzz.served import bodies, leftovers, spools

CORPUS = Path(__file__).parent / "corpus"

TARGETS: dict[str, Opened] = {
    "calendar": calendars,
    "settings": settings_files,
    "rule": rules,
    "value": values,
    "pipe": reports,
    "api": bodies,
    "state": leftovers,
    "spool": spools,
    "archive": archives,
    "folder": folders,
    "answer": answers,
    "certificate": certificates,
    "lock": locks,
    "configuration": configurations,
    "log": logs,
    "server": servers,
    "host": host_files,
}


READERS: dict[str, str] = {
    "calendar": "calendar/loading config/yaml_tree schedule/schedule",
    "settings": "config/file",
    "pipe": "executor/child_protocol executor/message_reader",
    "state": "job/description_cache",
    "spool": "executor/spool",
    "archive": (
        "checks/backups/archive checks/backups/aof checks/backups/age_encryption checks/backups/crc "
        "checks/backups/pgdump_custom checks/backups/pgdump_plain checks/backups/rdb "
        "checks/backups/seekable checks/backups/stream checks/backups/tar"
    ),
    "folder": "checks/backups/base_backup checks/backups/catalog checks/backups/pgdump_directory",
    "answer": "clients/bounded",
    "certificate": "checks/certificates/certificate checks/certificates/stored",
    "lock": "checks/packages/npm_audit checks/packages/npm_lock checks/packages/osv checks/packages/python_locks",
    "configuration": "checks/config_review/compose checks/config_review/web",
    "log": (
        "checks/logs/access_log checks/logs/auth_log checks/logs/denied_requests checks/logs/folder "
        "checks/logs/log_files checks/logs/login_messages checks/logs/scanner checks/logs/syslog "
        "checks/logs/unfamiliar_logins"
    ),
    "server": (
        "checks/alerts/grafana checks/logs/containers checks/logs/loki checks/logs/loki_retention "
        "clients/alertmanager clients/docker "
        "clients/docker_api clients/exposition clients/http clients/prometheus clients/registry clients/shapes"
    ),
    "host": (
        "checks/docker/inspector checks/logs/journal_size checks/logs/rotation clients/cgroup clients/host "
        "clients/open_files clients/trivy"
    ),
}
"""The modules with the readers of each target, below `maintd`."""

NO_TARGET: dict[str, str] = {
    "checks/backup_sets/layout": "manifests of maintd; any JSON in place of one: tests/unit/test_backup_sets.py",
    "checks/backups/gpg": "the output of gpg, a program of this machine; the bytes inside go through `archive`",
    "clients/webhook_receiver": "a notification of the operator's Alertmanager, decoded by the reader of `answer`",
    "checks/logs/journal": "the JSON of journalctl, a program of this machine; messages go through `log`",
    "checks/logs/cleanup": "the JSON of an engine, by the client of `server`",
    "checks/access/keys": "a file of the host; any line: tests/jobs/test_access_review.py",
    "checks/access/grafana_accounts": "answers that clients/http and clients/shapes decode, through `server`",
    "clients/sockets": "/proc/net of the kernel; a line that is no address: tests/jobs/test_host_review.py",
    "checks/audit/compose_files": "the operator's compose file; what is none: tests/jobs/test_security_audit.py",
    "checks/audit/file_modes": "lines of .env files; only names are kept: tests/jobs/test_security_audit_files.py",
    "checks/audit/sshd": "sshd's own configuration; what is none: tests/jobs/test_security_audit_files.py",
    "checks/audit/tracked_secrets": "the operator's own repository: tests/jobs/test_security_audit_files.py",
    "checks/audit/daemon": "the operator's daemon.json; what is none: tests/jobs/test_security_audit.py",
    "checks/config_review/baselines": "records of maintd; one that was changed: tests/unit/test_config_snapshot.py",
    "checks/probes": "turns errors of readers into evidence, and reads nothing",
    "checks/restore/recovered": "a struct of the kernel: who is connected to a socket",
    "checks/secrets/versions": "the journal of maintd itself; what is no journal is an error that names it",
    "checks/rollback/manifest": "manifests of maintd; any JSON in place of one: tests/unit/test_rollback_format.py",
    "checks/requirements/examine": "the params of the operator's own calendar",
    "checks/read_tally": "counts, and reads nothing",
    "checks/logs/evaluate": "evaluates counts, and reads nothing",
    "cli/arguments": "the operator's own command line",
    "executor/fork_protocol": "messages between processes of the daemon",
    "executor/fork_server": "messages between processes of the daemon",
    "executor/job_user": "the credentials of a socket, from the kernel",
    "job/import_process": "the answer of a process of the daemon",
    "store/mapping": "the store's own rows",
    "store/postgres": "the operator's own DSN",
    "store/run_plans": "the store's own rows",
    "store/tables": "the store's own rows",
    "web/connection_limits": "the credentials of a socket, from the kernel",
}
"""Modules that decode something and need no target, each with the reason."""


def kept(target: str) -> Iterator[Path]:
    """Return the files of a target's corpus, sorted."""
    return iter(sorted((CORPUS / target).iterdir()))
