"""One drill: every part of a backup restored and proven by itself, one after the other, in the scratch folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from maintd.checks.backups import set_files
from maintd.checks.backups.keys import Keys
from maintd.checks.probes import isolate_errors
from maintd.checks.restore import archives, databases, redis, sources
from maintd.checks.restore.cluster import Cluster, cluster_bytes, find_programs, production_identifiers
from maintd.checks.restore.databases import Query, Restored
from maintd.checks.restore.objectives import Stopwatch
from maintd.checks.restore.recovered import RecoveredCluster
from maintd.checks.restore.redis import ScratchRedis
from maintd.checks.restore.sources import Part, Source
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus

_GROWTH = 1.2  # of a restored database against the original, which has free space in its tables; a rule of thumb
_UNPACKED = 4  # times the size of a dump or archive without a manifest; a rule of thumb
_OWN = "restored"  # the database of a dump that does not name one
_BOOTSTRAP = "maintd_bootstrap"
_WARN = CheckStatus.WARN


@dataclass(frozen=True)
class Options:
    """Params of the job."""

    bin_dir: Path | None
    run_as: str
    redis_server: Path
    jobs: int
    amcheck: bool
    queries: Mapping[str, Query]
    keys: Keys


def space_needed(source: Source) -> int:
    """Bytes that the largest part needs while it is restored; each is deleted before the next one."""
    if source.manifest is None:
        dumps = any(sources.is_database(part) for part in source.parts)
        size = source.size_bytes * _UNPACKED
        return cluster_bytes(size) if dumps else size
    needs = [0]
    try:
        dumped = source.manifest.get("postgres", [])
        needs += [cluster_bytes(round(int(about["size_bytes"]) * _GROWTH)) for about in dumped]
        needs += [cluster_bytes(int(about["size_bytes"])) for about in source.manifest.get("base_backups", [])]
        for about in source.manifest.get("redis", []):
            size = int(about.get("size_bytes") or source.manifest["files"][about["file"]]["size_bytes"])
            rewritten = about.get("append_only") and about.get("form") != "append-only files"
            needs.append(size * (2 if rewritten else 1))
        needs += [
            sum(int(member["size_bytes"]) for member in about["members"])
            for about in source.manifest.get("archives", [])
            if not about["encrypted"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TargetError(f"{source.name}: its manifest lacks a field: {error}", cause="malformed") from error
    return max(needs)


@dataclass
class Drill:
    """Restores a source into a folder. `incomplete`: parts that were not restored; `record`: for the artifact."""

    ctx: Context
    source: Source
    folder: Path
    options: Options
    watch: Stopwatch
    incomplete: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    _asked: set[str] = field(default_factory=set)
    _count: int = 0

    def restore_all(self) -> None:
        """Restore and prove every part; the error of one does not keep the others from being restored."""
        ctx, manifest = self.ctx, self.source.manifest
        if manifest is None:
            dumps = [part for part in self.source.parts if sources.is_database(part)]
            production = production_identifiers(ctx.targets.postgres, ()) if dumps else {}
            for part in self.source.parts:
                self._restore_file(part, production)
        else:
            dumped = _entries(manifest, "postgres")
            production = production_identifiers(ctx.targets.postgres, dumped) if dumped else {}
            for target in dict.fromkeys(str(about["target"]) for about in dumped):
                mine = [about for about in dumped if about["target"] == target]
                self._restore_cluster(target, mine, production)
            for about in _entries(manifest, "base_backups"):
                self._restore_base_backup(about)
            for about in _entries(manifest, "redis"):
                self._restore_redis(about)
            for about in _entries(manifest, "archives"):
                self._restore_archive(about)
        for label in self.options.queries.keys() - self._asked:
            hint = "name a database of the backup in the query"
            ctx.unknown(f"query {label}", "its database was not restored", hint=hint)

    @contextmanager
    def part(self, subject: str) -> Iterator[None]:
        """Restore one part in this block: its error is the check `restored` of it."""
        with isolate_errors(self.ctx, f"{subject}: restored", expected="restored"):
            try:
                yield
            except Exception:
                self.incomplete.append(subject)
                raise

    @contextmanager
    def place(self) -> Iterator[Path]:
        """A new folder's path for one part, deleted at the end of the block."""
        self._count += 1
        path = self.folder / str(self._count)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)  # the whole scratch folder is deleted, with an error, at the end

    # --- a set of the job backup ---

    def _file(self, subject: str, about: Mapping[str, Any]) -> Path | None:
        """The file of a part; None when it is not as it was when it was made, which is reported."""
        name = str(about["file"])
        if name in self.source.changed:
            self.incomplete.append(subject)
            hint = "what has changed is not restored, since a restore executes it; use another set"
            self.ctx.fail(f"{subject}: restored", f"{name} has changed", expected="restored", hint=hint)
            return None
        return self.source.folder / name

    def _restore_cluster(self, target: str, dumped: Sequence[Mapping[str, Any]], production: Mapping[str, str]) -> None:
        ctx, subject = self.ctx, f"postgres {target}"
        manifest = self.source.manifest or {}
        roles = next((one for one in _entries(manifest, "globals") if one["target"] == target), None)
        globals_file = None if roles is None else self._file(f"{subject}: roles", roles)
        known = ctx.targets.postgres.get(target)
        with self.part(subject), self.place() as place:
            wanted = max(int(str(about["server_version"]).partition(".")[0]) for about in dumped)
            bin_dir = self.options.bin_dir or (known.bin_dir if known is not None else None)
            programs = find_programs(bin_dir, wanted)
            version = programs.full_version("postgres")
            ctx.log(f"{subject}: postgres {version} in {programs.bin_dir}; backed up: {dumped[0]['server_version']}")
            self.record.setdefault("programs", {})[subject] = version
            spaces = globals_file is not None and b"CREATE TABLESPACE" in globals_file.read_bytes()
            with Cluster(subject, place, programs, self.options.run_as, ctx.remaining) as cluster:
                with self.watch.phase(ctx, "start Postgres", f"{subject}: make a scratch cluster"):
                    identifier = cluster.initialize(_bootstrap_of(roles))
                    largest = max(int(about["size_bytes"]) for about in dumped)
                    cluster.start(identifier, production, largest, table_spaces=spaces)
                name = f"{subject}: scratch cluster is not production"
                ctx.passed(name, identifier, expected=f"none of {len(production)} known system identifiers")
                owners = globals_file is not None and self._restore_roles(cluster, subject, globals_file, roles or {})
                if globals_file is None:
                    hint = "restore from a set that has them, or create the roles by hand"
                    ctx.unknown(f"{subject}: owners and grants", "the set has no roles", expected="restored", hint=hint)
                for about in dumped:
                    self._restore_database(cluster, f"{subject}: {about['database']}", about, owners=owners)

    def _restore_roles(self, cluster: Cluster, subject: str, file: Path, about: Mapping[str, Any]) -> bool:
        """Restore the roles; whether all are there. Without one, the databases are restored without owners."""
        with self.part(f"{subject}: roles"), cluster.explained():
            with self.watch.phase(self.ctx, "roles", f"{subject}: restore the roles"):
                cluster.restore_roles(file)
            with cluster.session("template1") as session:
                found = {str(row["name"]) for row in session.rows("SELECT rolname AS name FROM pg_roles")}
            missing = sorted(set(about.get("roles") or []) - found)
            hint = f"what they own cannot be restored as theirs: {', '.join(missing[:5])}" if missing else ""
            self.ctx.check(f"{subject}: roles missing", len(missing), at_most=0, hint=hint)
        return f"{subject}: roles" not in self.incomplete

    def _restore_database(self, cluster: Cluster, subject: str, about: Mapping[str, Any], *, owners: bool) -> None:
        ctx, name = self.ctx, str(about["database"])
        dump = self._file(subject, about)
        if dump is None:
            return
        with self.part(subject), cluster.explained():
            encoding, collate = str(about.get("encoding") or "UTF8"), str(about.get("collate") or "C")
            with self.watch.phase(ctx, "restore Postgres", f"{subject}: restore"):
                problem = cluster.create_database(name, encoding, collate)
                databases.restore_dump(cluster, name, dump, self.options.jobs, owners=owners)
            hint = "install the locale on this machine: indexes of texts are tested in another order"
            if problem:
                ctx.log(f"{subject}: {problem}")
            kept = "C" if problem else collate
            ctx.check(f"{subject}: collation", kept, equals=collate, severity=_WARN, hint=hint if problem else "")
            self._prove(cluster, Restored(subject, name, about, self.source.taken_at, dump, owners), dump.name)

    def _restore_base_backup(self, about: Mapping[str, Any]) -> None:
        """Unpack a base backup, recover it, and prove each of its databases."""
        ctx, subject = self.ctx, f"postgres {about['target']}: base backup"
        file = self._file(subject, about)
        if file is None:
            return
        known = ctx.targets.postgres.get(str(about["target"]))
        size = int(about["size_bytes"])
        with self.part(subject), self.place() as place:
            wanted = int(str(about["server_version"]).partition(".")[0])
            bin_dir = self.options.bin_dir or (known.bin_dir if known is not None else None)
            programs = find_programs(bin_dir, wanted)
            if programs.major != wanted:
                hint = f"install postgresql-{wanted}, and set bin_dir to its programs"
                text = f"a base backup of Postgres {wanted} starts with no other version; here is {programs.major}"
                raise TargetError(text, hint, cause="not_configured")
            self.record.setdefault("programs", {})[subject] = programs.full_version("postgres")
            with (
                RecoveredCluster(subject, place, programs, self.options.run_as, ctx.remaining) as cluster,
                cluster.explained(),
            ):
                with self.watch.phase(ctx, "unpack base backups", f"{subject}: unpack"):
                    unpacked = cluster.unpack(file, "tar.gz")
                problems = "; ".join(unpacked.problems[:3])
                hint = f"restore from another set: {problems}" if problems else ""
                ctx.require(f"{subject}: files unlike backup_manifest", len(unpacked.problems), at_most=0, hint=hint)
                with self.watch.phase(ctx, "pg_verifybackup", f"{subject}: verify the files and the WAL", proof=True):
                    self.record.setdefault("pg_verifybackup", {})[subject] = cluster.verify()
                with self.watch.phase(ctx, "recover Postgres", f"{subject}: recover"):
                    reached = cluster.recover(about, size)
                ctx.passed(
                    f"{subject}: scratch server is not production",
                    "a child of this drill, in its folder, without an address",
                    expected="the process and data folder of this drill, by the kernel",
                )
                ctx.passed(f"{subject}: recovered", reached, expected=f"at least {about['end_lsn']}")
                self._prove_base_backup(cluster, subject, about)

    def _prove_base_backup(self, cluster: Cluster, subject: str, about: Mapping[str, Any]) -> None:
        ctx, wanted = self.ctx, about.get("databases") or {}
        with cluster.session("template1") as session:
            found = databases.all_databases(session)
        missing = sorted(wanted.keys() - set(found))
        hint = f"restore from another set: {', '.join(missing[:5])}" if missing else ""
        ctx.check(f"{subject}: databases missing", len(missing), at_most=0, hint=hint)
        own = [name for name in found if name != "postgres"]
        for name in found:
            restored = Restored(f"{subject}: {name}", name, None, self.source.taken_at)
            with self.part(restored.subject):
                with self.watch.phase(ctx, "compare the databases", f"{restored.subject}: read it", proof=True):
                    proof = databases.prove_read(ctx, cluster, restored, wanted.get(name) or [])
                self.record.setdefault("tables", {})[restored.subject] = proof.tables
                with cluster.session(name) as session:
                    other = databases.other_collation(session)
                self._query_and_check(cluster, restored, only=own == [name], amcheck=not other)
                if other and self.options.amcheck:
                    hint = "run the drill where the server's C library is; a dump is restored with any"
                    cause = f"its indexes of texts are sorted by {other}"
                    ctx.unknown(f"{restored.subject}: damaged relations", cause, expected="none", hint=hint)
        ctx.passed(f"{subject}: restored", str(about["file"]), expected="restored")

    def _prove(self, cluster: Cluster, restored: Restored, file: str) -> None:
        ctx = self.ctx
        ctx.passed(f"{restored.subject}: restored", file, expected="restored")
        with self.watch.phase(ctx, "compare the databases", f"{restored.subject}: compare", proof=True):
            proof = databases.prove(ctx, cluster, restored)
        self.record.setdefault("tables", {})[restored.subject] = proof.tables
        self._query_and_check(cluster, restored, only=self._has_one_database())
        cluster.drop_database(restored.name)

    def _query_and_check(self, cluster: Cluster, restored: Restored, *, only: bool, amcheck: bool = True) -> None:
        """Run the queries of this database, also those that name none when it is the only one, and amcheck."""
        mine = {
            label: query
            for label, query in self.options.queries.items()
            if query.database == restored.name or (query.database is None and only)
        }
        self._asked |= mine.keys()
        databases.run_queries(self.ctx, cluster, restored, mine)
        if self.options.amcheck and amcheck:
            with self.watch.phase(self.ctx, "amcheck", f"{restored.subject}: check for damage", proof=True):
                databases.check_damage(self.ctx, cluster, restored)

    def _has_one_database(self) -> bool:
        if self.source.manifest is None:
            return sum(map(sources.is_database, self.source.parts)) == 1
        return len(_entries(self.source.manifest, "postgres")) == 1

    def _restore_redis(self, about: Mapping[str, Any]) -> None:
        target = str(about["target"])
        subject = f"redis {target}"
        file = self._file(subject, about)
        if file is not None:
            known = self.ctx.targets.redis.get(target)
            with self.part(subject), self.place() as place:
                redis_server = ScratchRedis(subject, self.options.redis_server, place, self.ctx.remaining)
                packed = about.get("form") == "append-only files"
                what = "append-only files" if packed else "snapshot"
                with redis_server, self.watch.phase(self.ctx, "restore Redis", f"{subject}: load the {what}"):
                    database = _database_of(known.url) if known is not None else 0
                    restore = redis.restore_packed if packed else redis.restore_snapshot
                    restore(self.ctx, redis_server, subject, file, about, database)
                self.ctx.passed(f"{subject}: restored", file.name, expected="restored")

    def _restore_archive(self, about: Mapping[str, Any]) -> None:
        part = "secrets" if about["encrypted"] else "files"
        subject = f"{part} {about['name']}"
        file = self._file(subject, about)
        if file is not None:
            kind = "tar.gz.age" if about["encrypted"] else "tar.gz"
            with self.part(subject):
                self._unpack(subject, Part(subject, kind, file, about))

    def _unpack(self, subject: str, part: Part) -> None:
        if not {"age", "gpg"} & set(part.kind.split(".")):
            with self.place() as place, self.watch.phase(self.ctx, "unpack folders", f"{subject}: unpack"):
                archives.unpack(self.ctx, subject, part.path, part.kind, place, part.about)
        elif self._has_key(subject, part):
            with self.watch.phase(self.ctx, "decrypt secrets", f"{subject}: decrypt"):
                archives.decrypt(self.ctx, subject, part.path, part.kind, self.options.keys, part.about)

    def _has_key(self, subject: str, part: Part) -> bool:
        """Whether what is encrypted can be decrypted here; without a key this is unknown, with a bad one a failure."""
        missing = self.options.keys.missing(part.kind)
        if missing is None:
            return True
        cause, configured = missing
        param = "identity to the age key" if "age" in part.kind.split(".") else "gpg_key or gpg_passphrase to the key"
        hint = f"set {param} that is kept for a disaster, or decrypt it by hand where the key is"
        sealed = set_files.is_sealed(part.path)
        self.ctx.unknown(
            f"{subject}: decrypted", cause, expected="decrypted", hint=hint, optional=sealed and not configured
        )
        if configured:
            self.incomplete.append(subject)
        return False

    # --- files of other programs ---

    def _restore_file(self, part: Part, production: Mapping[str, str]) -> None:
        subject = part.subject
        with self.part(subject):
            if sources.is_archive(part):
                self._unpack(subject, part)
            elif not self._has_key(subject, part):
                return
            elif sources.is_redis(part):
                self._load_file(part)
            elif sources.is_database(part):
                self._restore_dump(part, production)
            else:
                self.incomplete.append(subject)
                hint = "restore it by its own program, and name it in no pattern of the param files"
                cause = f"{part.kind or 'an unknown format'} is not restored in a drill"
                self.ctx.unknown(f"{subject}: restored", cause, expected="restored", hint=hint)

    def _load_file(self, part: Part) -> None:
        ctx = self.ctx
        with self.place() as place:
            server = ScratchRedis(part.subject, self.options.redis_server, place, ctx.remaining)
            with server, self.watch.phase(ctx, "restore Redis", f"{part.subject}: load"):
                file = sources.write_plain(part, place / "plain", self.options.keys)
                kind = part.kind.split(".")[0]
                if kind == "rdb":
                    redis.restore_snapshot(ctx, server, part.subject, file, None, 0)
                else:
                    redis.restore_append_only(ctx, server, part.subject, file, kind)
            ctx.passed(f"{part.subject}: restored", part.path.name, expected="restored")

    def _restore_dump(self, part: Part, production: Mapping[str, str]) -> None:
        ctx, subject = self.ctx, part.subject
        programs = find_programs(self.options.bin_dir, 0)
        self.record.setdefault("programs", {})[subject] = programs.full_version("postgres")
        with (
            self.place() as place,
            Cluster(subject, place, programs, self.options.run_as, ctx.remaining) as cluster,
            cluster.explained(),
        ):
            self._restore_into(cluster, part, production)

    def _restore_into(self, cluster: Cluster, part: Part, production: Mapping[str, str]) -> None:
        ctx, subject = self.ctx, part.subject
        is_sql = part.kind.split(".")[0] == "sql"
        with self.watch.phase(ctx, "start Postgres", f"{subject}: make a scratch cluster"):
            identifier = cluster.initialize(_BOOTSTRAP)
            size = part.path.stat().st_size * _UNPACKED
            cluster.start(identifier, production, size, table_spaces=is_sql)
        hint = "a dump has no roles; make the backup by the job backup, or keep pg_dumpall --globals-only with it"
        with self.watch.phase(ctx, "restore Postgres", f"{subject}: restore"):
            dump = sources.write_plain(part, cluster.folder / "plain", self.options.keys)
            cluster.create_database(_OWN, "UTF8", "C")
            if is_sql:
                has_roles = cluster.restore_sql(_OWN, dump)
            else:
                has_roles = False
                databases.restore_dump(cluster, _OWN, dump, self.options.jobs, owners=False)
        if not has_roles:
            ctx.unknown(f"{subject}: owners and grants", "no roles in it", expected="restored", hint=hint)
        for name in cluster.databases():
            about = subject if name == _OWN else f"{subject}: {name}"
            self._prove(cluster, Restored(about, name, None, self.source.taken_at), part.path.name)


def _entries(manifest: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    found = manifest.get(part, [])
    return [about for about in found if isinstance(about, dict)] if isinstance(found, list) else []


def _bootstrap_of(roles: Mapping[str, Any] | None) -> str:
    """The first superuser of the original, which its roles expect to be there; earlier manifests do not have it."""
    if roles is None:
        return _BOOTSTRAP
    return str(roles.get("bootstrap_role") or "postgres")


def _database_of(url: str) -> int:
    """The number of the database in the URL of a Redis target."""
    path = urlsplit(url).path.strip("/")
    return int(path) if path.isdigit() else 0
