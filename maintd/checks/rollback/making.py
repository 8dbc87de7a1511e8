"""Making a rollback manifest: each part isolated from the others, then written as a whole and read back."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import maintd
from maintd.checks.backup_sets.writer import os_errors, sync_folder, write_synced
from maintd.checks.backups.stream import open_regular
from maintd.checks.docker.image_updates import ROLLBACK
from maintd.checks.probes import isolate_errors
from maintd.checks.rollback import manifest as layout
from maintd.checks.rollback.image_tags import add_tag, remove_tag, rollback_tags, superfluous, tag_name
from maintd.checks.rollback.manifest import (
    FileRecord,
    FoundManifest,
    ImageRecord,
    KeyedRecord,
    Manifest,
    PostgresRecord,
    RedisRecord,
)
from maintd.checks.services.containers import ServiceContainer, of_project, read_all
from maintd.clients import docker, postgres, redis
from maintd.clients.files import modified_at, shown
from maintd.errors import MaintdError, TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.model.target import DockerTarget

_LARGEST = 16 << 20  # bytes of a copied file: it is configuration
_MOST_ROWS = 1000  # of a schema's versions
_KEY_BYTES = 32
_CONFIG_HASH = "com.docker.compose.config-hash"


@dataclass
class ManifestMaker:
    """What is recorded so far. `key`: of the hashes of secrets and environments; None: they are not recorded."""

    ctx: Context
    made_at: datetime
    key: bytes | None
    images: list[ImageRecord] = field(default_factory=list)
    copies: dict[str, tuple[FileRecord, bytes]] = field(default_factory=dict)  # by the name of the copy
    environment: list[KeyedRecord] = field(default_factory=list)
    secrets: list[KeyedRecord] = field(default_factory=list)
    postgres: list[PostgresRecord] = field(default_factory=list)
    redis: list[RedisRecord] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Record one part in this block: its error is the check `name: recorded`, and the others are still recorded."""
        with (
            isolate_errors(self.ctx, f"{name}: recorded", expected="recorded", role=Role.WORK),
            self.ctx.phase(f"record {name}"),
        ):
            try:
                yield
            except Exception as error:
                self.missing[name] = error.message if isinstance(error, MaintdError) else type(error).__name__
                raise

    def add_engine(self, name: str, target: DockerTarget) -> None:
        """Record and tag the images of the project's containers. Raises TargetError."""
        with docker.connect(target, name=name) as engine:
            found = [item for item in of_project(read_all(engine), target.project) if not item.aside]
            if not found:
                hint = "check the target's project: docker compose ls --all"
                raise TargetError(f"{name}: no container of the project", hint, cause="empty")
            tags = dict[tuple[str, str], str | None]()
            for item in found:
                key = (item.service, item.state.image_id)
                if key not in tags:
                    taken = sum(tag is not None for (service, _), tag in tags.items() if service == item.service)
                    label = item.service if not taken else f"{item.service}-{item.state.number or taken + 1}"
                    tags[key] = self._tag(engine, label, item)
                self._add_image(engine, item, tags[key])
        services = len({item.service for item in found})
        images = len({item.state.image_id for item in found})
        self.ctx.passed(f"docker {name}: recorded", f"{services} services, {images} images", expected="recorded")

    def _tag(self, engine: docker.Docker, label: str, item: ServiceContainer) -> str | None:
        name = tag_name(label, f"{self.made_at:{layout.TIME}}")
        try:
            with self.ctx.change("tag", f"{ROLLBACK}:{name}", image=item.state.image_id) as allowed:
                if allowed:
                    add_tag(engine, item.state.image_id, name)
        except TargetError as error:
            self.missing[f"docker {engine.name}: tag of {label}"] = error.message
            check = f"docker {engine.name}: {label} is kept from clean-ups"
            self.ctx.report_error(check, error, expected="tagged", role=Role.WORK)
            return None
        return f"{ROLLBACK}:{name}"

    def _add_image(self, engine: docker.Docker, item: ServiceContainer, tag: str | None) -> None:
        with docker.translated(engine.name):
            raw: Mapping[str, Any] = engine.api.inspect_image(item.state.image_id)  # type: ignore[no-untyped-call]
            lines = sorted(str(line) for line in (item.raw["Config"].get("Env") or ()))
        self.images.append(
            ImageRecord(
                engine=engine.name,
                service=item.service,
                container=item.name,
                label=item.label,
                image=item.state.image,
                image_id=item.state.image_id,
                digests=tuple(raw.get("RepoDigests") or ()),
                tag=tag,
                config_hash=item.labels.get(_CONFIG_HASH),
                environment=None if self.key is None else _keyed(self.key, "\n".join(lines).encode()),
            )
        )

    def add_file(self, path: Path) -> None:
        """Record a copy of a file. Raises TargetError."""
        data, status = _content(path)
        copy = f"{len(self.copies) + 1}-{path.name}"
        digest = hashlib.sha256(data).hexdigest()
        record = FileRecord(
            path=str(path),
            copy_name=copy,
            sha256=digest,
            size_bytes=len(data),
            mode=stat.S_IMODE(status.st_mode),
        )
        self.copies[copy] = (record, data)
        self.ctx.passed(f"file {shown(path)}: recorded", f"sha256 {digest}", expected="recorded")

    def add_keyed(self, kind: str, path: Path) -> None:
        """Record the keyed hash of a file, or of each file below a folder: never its content. Raises TargetError."""
        with os_errors(path):
            files = sorted(_files_below(path)) if path.is_dir() else [path]
        if not files:
            raise TargetError(f"{shown(path)}: has no file", "correct the path, or mount it", cause="empty")
        assert self.key is not None
        for item in files:
            data, status = _content(item)
            record = KeyedRecord(
                path=str(item),
                hmac_sha256=_keyed(self.key, data),
                size_bytes=len(data),
                modified_at=modified_at(status),
            )
            (self.secrets if kind == "secrets" else self.environment).append(record)
        self.ctx.passed(f"{kind} {shown(path)}: recorded", f"files: {len(files)}", expected="recorded")

    def add_postgres(self, name: str, query: str | None) -> None:
        """Record the end of the WAL and the schema's version. Raises TargetError."""
        with postgres.connect(self.ctx.target("postgres", name), "rollback_manifest", name=name) as session:
            row = session.one(
                "SELECT current_setting('server_version') AS version, (CASE WHEN pg_is_in_recovery() "
                "THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text AS lsn"
            )
            if row["lsn"] is None:
                raise TargetError(f"{name}: reports no position in its WAL", cause="empty")
            rows = None if query is None else session.rows(query)
        if rows is not None and (not rows or len(rows) > _MOST_ROWS):
            text = f"{name}: the query of the schema's version returned {len(rows)} rows"
            raise TargetError(
                text, f"correct it, for 1 to {_MOST_ROWS} rows", cause="empty" if not rows else "too_large"
            )
        versions = None if rows is None else tuple(tuple(_text(value) for value in item.values()) for item in rows)
        record = PostgresRecord(target=name, version=row["version"], lsn=row["lsn"], schema_version=versions)
        self.postgres.append(record)
        self.ctx.passed(f"postgres {name}: recorded", f"LSN {record.lsn}", expected="recorded")
        check = f"postgres {name}: version of the schema"
        if versions is None:
            hint = f"name its query in schema_versions: {{{name}: SELECT …}}"
            self.ctx.unknown(check, "not_configured: no query", expected="recorded", hint=hint, optional=True)
        else:
            last = ", ".join(str(value) for value in versions[-1])[:200]
            self.ctx.passed(check, f"rows: {len(versions)}, the last: {last}", expected="recorded")

    def add_redis(self, name: str) -> None:
        """Record when it last saved its data. Raises TargetError."""
        with redis.connect(self.ctx.target("redis", name), name=name) as server:
            run_id = str(server.info("server").get("run_id", ""))
            answer = server.command("LASTSAVE")
        saved_at = _instant(name, answer)
        self.redis.append(RedisRecord(target=name, run_id=run_id, saved_at=saved_at))
        self.ctx.passed(f"redis {name}: recorded", f"saved at {saved_at:%Y-%m-%d %H:%M:%S} UTC", expected="recorded")

    def manifest(self) -> Manifest:
        """All that is recorded."""
        return Manifest(
            format=layout.FORMAT,
            maintd=maintd.__version__,
            name=layout.manifest_name(self.made_at),
            made_at=self.made_at,
            run=self.ctx.run_id,
            entry=self.ctx.entry,
            images=tuple(self.images),
            files=tuple(record for record, _ in self.copies.values()),
            environment=tuple(self.environment),
            secrets=tuple(self.secrets),
            postgres=tuple(self.postgres),
            redis=tuple(self.redis),
            missing=self.missing,
        )


def free_time(ctx: Context, folder: Path) -> datetime:
    """Now, to the second; waits for the next second when another manifest has it."""
    while True:
        at = ctx.now().replace(microsecond=0)
        name = layout.manifest_name(at)
        if not (folder / name).exists() and not (folder / f".{name}.partial").exists():
            return at
        time.sleep(0.1)


def write(maker: ManifestMaker, folder: Path) -> FoundManifest | None:
    """Write the manifest below a temporary name, rename it when it is whole, and read it back. None in a dry run.

    Raises TargetError.
    """
    ctx, manifest = maker.ctx, maker.manifest()
    path = folder / manifest.name
    with ctx.change("create", path, images=len(maker.images), files=len(maker.copies)) as allowed:
        if not allowed:
            return None
        text = manifest.text()
        partial = folder / f".{manifest.name}.partial"
        try:
            with os_errors(partial):
                (partial / layout.FILES).mkdir(mode=0o700, parents=True)
                partial.chmod(0o700)
                for name, (_, data) in maker.copies.items():
                    _write_bytes(partial / layout.FILES / name, data)
                write_synced(partial / layout.DOCUMENT, text)
                sync_folder(partial / layout.FILES)
                sync_folder(partial)
                partial.rename(path)
                sync_folder(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # what cannot be removed is removed by the next run
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        found = layout.read(path, sha256)
        allowed.observed(sha256=sha256)
    if found.manifest != manifest:
        raise TargetError(f"{shown(path)}: reads otherwise than it was written", "check the disk", cause="malformed")
    ctx.passed("manifest is whole", f"{path.name}: sha256 {sha256}", expected="read back as it was written")
    ctx.save(f"{path.name}.json", text, "application/json")
    return found


def remove_leftovers(ctx: Context, folder: Path) -> None:
    """Remove what runs that have ended left; the folder's lock must be held. Raises TargetError."""
    with os_errors(folder):
        found = layout.leftovers(folder)
    for path in found:
        with ctx.change("remove", path, why="left by a run that was stopped") as allowed:
            if allowed:
                with os_errors(path):
                    shutil.rmtree(path)


def prune(ctx: Context, folder: Path, keep: int) -> list[str]:
    """Delete all but the newest manifests; return the tags that those which stay name. Raises TargetError.

    One that cannot be read stays, and with it every tag: what it names is not known.
    """
    with os_errors(folder):
        found = layout.names(folder)
    for name in found[keep:]:
        path = folder / name
        with ctx.change("delete", path, why=f"{keep} newer ones are kept") as allowed:
            if allowed:
                with os_errors(path):
                    going = folder / f".{name}.deleted"
                    path.rename(going)
                    shutil.rmtree(going)
    return [image.tag for name in found[:keep] for image in layout.read(folder / name).manifest.images if image.tag]


def prune_tags(ctx: Context, name: str, target: DockerTarget, keep: int, named: Sequence[str]) -> None:
    """Remove tags for a rollback beyond the newest of each service; each is isolated. Raises TargetError."""
    with docker.connect(target, name=name) as engine:
        used = {item.state.image_id for item in read_all(engine)}
        for tag in superfluous(rollback_tags(engine), keep, named):
            if tag.image_id in used:
                continue
            check = f"docker {name}: old tag {tag.name}"
            try:
                with ctx.change("remove tag", f"{name}: {tag.name}", image=tag.image_id) as allowed:
                    if allowed:
                        remove_tag(engine, tag)
            except TargetError as error:
                ctx.report_error(check, error, expected="removed", role=Role.SUBJECT)


def read_key(ctx: Context, path: Path | None, folder: Path) -> bytes | None:
    """The key of the hashes; created when it does not exist. None without a path. Raises TargetError."""
    if path is None:
        return None
    if path.parent.resolve() == folder.resolve() or folder.resolve() in path.resolve().parents:
        hint = "keep it where the manifests are not: with it, a short secret can be found from its hash"
        raise TargetError(f"{shown(path)}: is in the folder of the manifests", hint, cause="not_configured")
    with os_errors(path):
        if not path.exists():
            with ctx.change("create", path, bytes=_KEY_BYTES) as allowed:
                if not allowed:
                    return secrets.token_bytes(_KEY_BYTES)
                _write_bytes(path, secrets.token_bytes(_KEY_BYTES))
                sync_folder(path.parent)
        key = path.read_bytes()
    if len(key) < _KEY_BYTES:
        hint = "delete it, so that it is created again; hashes of earlier manifests then no longer compare"
        raise TargetError(f"{shown(path)}: is shorter than {_KEY_BYTES} bytes", hint, cause="malformed")
    return key


def _files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and its folders. Raises OSError for one that cannot be listed."""

    def fail(error: OSError) -> NoReturn:
        raise error

    for parent, _, found in os.walk(folder, onerror=fail):
        yield from (path for name in found if (path := Path(parent) / name).is_file())


def _keyed(key: bytes, data: bytes) -> str:
    return hmac.new(key, data, "sha256").hexdigest()


def _content(path: Path) -> tuple[bytes, os.stat_result]:
    """The content of a file that did not change while it was read. Raises TargetError."""
    with os_errors(path), open_regular(path.resolve(strict=True)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise TargetError(f"{shown(path)}: is not a file", "name files, not folders", cause="not_found")
        if status.st_size > _LARGEST:
            raise TargetError(f"{shown(path)}: has {status.st_size} bytes", "leave it to the backup", cause="too_large")
        return file.read(_LARGEST + 1), status


def _write_bytes(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _text(value: object) -> str | None:
    return None if value is None else str(value)[:1000]


def _instant(name: str, answer: Any) -> datetime:
    """LASTSAVE as redis-py returns it: a local time without a zone, or seconds. Raises TargetError."""
    if isinstance(answer, datetime):
        return answer.astimezone(UTC)
    if isinstance(answer, int) and not isinstance(answer, bool):
        return datetime.fromtimestamp(answer, UTC)
    raise TargetError(f"{name}: LASTSAVE is not what Redis answers", cause="malformed")
