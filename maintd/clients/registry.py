"""Digests of tags in image registries without a pull: through the Docker engine, or by the registry's API v2.

Source: OCI distribution specification 1.1; the token flow is that of Docker's registry. A HEAD request for a manifest
does not count against Docker Hub's limit of pulls.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr

from maintd.clients.docker import Docker, translated
from maintd.clients.http import Answer, fetch
from maintd.errors import TargetError
from maintd.units import seconds_text

INDEXES = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
# With indexes first: else a registry answers with the manifest of one platform, which has another digest.
_ACCEPT = ", ".join((*sorted(INDEXES), *_MANIFESTS))
_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}")
_HUB = "docker.io"
_HUB_HOST = "registry-1.docker.io"
_MAX_RETRY_AFTER = 5.0  # seconds that a registry may ask to wait before the one retry
_MANIFEST_LIMIT = 4 * 1024 * 1024  # bytes, as the specification allows
_TAGS_PER_PAGE, _MAX_PAGES = 1000, 20
_NEXT = re.compile(r'<([^>]+)>\s*;[^,]*rel="?next"?')


class RateLimitedError(TargetError):
    """The registry has a rate limit and refuses more requests for now."""


class Credentials(BaseModel):
    """A login to a registry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    username: str
    password: SecretStr


@dataclass(frozen=True)
class Reference:
    """The full name of an image: `docker.io`, `library/redis`, `7-alpine`. `tag` is empty with only a digest."""

    registry: str
    repository: str
    tag: str
    digest: str
    explicit: bool  # the name has a registry

    @property
    def familiar(self) -> str:
        """Registry and repository in the engine's short form, without `docker.io/library/`."""
        if self.registry != _HUB:
            return f"{self.registry}/{self.repository}"
        return self.repository.removeprefix("library/")

    def __str__(self) -> str:
        return self.familiar + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True)
class RemoteImage:
    """The digest of a tag: of an index of platforms, or of one platform's manifest."""

    digest: str
    media_type: str

    @property
    def is_index(self) -> bool:
        """Whether it is an index of platforms."""
        return self.media_type in INDEXES


@dataclass(frozen=True)
class Tags:
    """The tags of a repository; not `complete` when the registry has more than were read."""

    names: tuple[str, ...]
    complete: bool


class RegistryClient(Protocol):
    """Access to registries."""

    def tags(self, reference: Reference) -> Tags:
        """The tags of the reference's repository. Raises TargetError; `not_configured` without a way to list them."""
        ...

    def remote(self, reference: Reference) -> RemoteImage:
        """The digest of the reference's tag. Raises TargetError."""
        ...

    def contains(self, reference: Reference, remote: RemoteImage, digest: str) -> bool:
        """Whether an index contains this digest. Raises TargetError, also when that is not known."""
        ...


def parse(text: str) -> Reference:
    """Parse the name of an image. Raises ValueError for anything else, such as an image's id."""
    name, _, digest = text.partition("@")
    if digest and not _DIGEST.fullmatch(digest):
        raise ValueError(f'"{text}" has no valid digest after its @')
    first, slash, rest = name.partition("/")
    explicit = bool(slash) and ("." in first or ":" in first or first == "localhost")
    registry, path = (first, rest) if explicit else (_HUB, name)
    repository, _, tag = path.partition(":")
    if registry in ("index.docker.io", _HUB):
        registry = _HUB
        repository = repository if "/" in repository else f"library/{repository}"
    if not re.fullmatch(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*", repository) or re.fullmatch(r"(sha256:)?[0-9a-f]{64}", name):
        raise ValueError(f'"{text}" is not the name of an image')
    return Reference(registry, repository, tag or ("" if digest else "latest"), digest, explicit)


def parse_or_none(text: str) -> Reference | None:
    """The reference of an image's name; None for an id."""
    try:
        return parse(text)
    except ValueError:
        return None


class EngineRegistryClient:
    """Asks the engine (`GET /distribution/NAME/json`), which uses its own network, proxy and trusted registries."""

    def __init__(self, engine: Docker, credentials: Mapping[str, Credentials]) -> None:
        self._engine = engine
        self._credentials = credentials

    def remote(self, reference: Reference) -> RemoteImage:
        """The digest of the tag."""
        return self._inspect(reference, f"{reference.familiar}:{reference.tag}")

    def tags(self, reference: Reference) -> Tags:
        """The engine has no request for them."""
        raise TargetError(
            f"{self._engine.name} does not list the tags of registries", "set through: registry", cause="not_configured"
        )

    def contains(self, reference: Reference, remote: RemoteImage, digest: str) -> bool:
        """The engine does not show an index's digests; it only shows whether a digest is of an index itself."""
        try:
            local = self._inspect(reference, f"{reference.familiar}@{digest}")
        except RateLimitedError:
            raise
        except TargetError as error:
            if "not found" in error.message or "manifest unknown" in error.message:
                return False  # the registry has removed it, so there is a newer one
            raise
        if local.is_index:
            return False
        raise TargetError(
            f"{reference}: the local digest is of one platform, the registry's is an index of several",
            "set through: registry, to compare them",
            cause="partial",
        )

    def _inspect(self, reference: Reference, name: str) -> RemoteImage:
        login = auth(self._credentials, reference)
        try:
            with translated(f"{self._engine.name}: {name}"):
                found = self._engine.api.inspect_distribution(name, auth_config=login)  # type: ignore[no-untyped-call]
                return RemoteImage(str(found["Descriptor"]["digest"]), str(found["Descriptor"]["mediaType"]))
        except TargetError as error:
            text = error.message.lower()
            if "toomanyrequests" in text or "too many requests" in text or "answered 429" in text:
                raise RateLimitedError(
                    error.message, "run this less often, or set credentials", cause="failed"
                ) from error
            if "unauthorized" in text or "authentication required" in text or "access denied" in text:
                raise TargetError(error.message, f"set credentials for {reference.registry}", cause="denied") from error
            raise


def auth(credentials: Mapping[str, Credentials], reference: Reference) -> dict[str, str] | None:
    """The login for a reference's registry in the SDK's form."""
    found = credentials.get(reference.registry)
    return None if found is None else {"username": found.username, "password": found.password.get_secret_value()}


class HttpRegistryClient:
    """Asks registries directly, by HTTPS; by plain HTTP on this machine, as the engine does, and where allowed."""

    def __init__(
        self, credentials: Mapping[str, Credentials], insecure: frozenset[str] = frozenset(), *, timeout: timedelta
    ) -> None:
        self._credentials = credentials
        self._insecure = insecure
        self._timeout = timeout

    def remote(self, reference: Reference) -> RemoteImage:
        """The digest of the tag."""
        answer = self._manifest(reference, reference.tag, "HEAD")
        digest = answer.headers.get("docker-content-digest", "")
        if not digest:  # the header is optional
            answer = self._manifest(reference, reference.tag, "GET")
            digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        if not _DIGEST.fullmatch(digest):
            raise TargetError(f"{answer.url}: has no valid digest", "check whether it is a registry", cause="malformed")
        return RemoteImage(digest, answer.content_type.partition(";")[0])

    def contains(self, reference: Reference, remote: RemoteImage, digest: str) -> bool:
        """Whether the index lists this digest."""
        listed = self._manifest(reference, remote.digest, "GET").json()
        manifests = listed.get("manifests", []) if isinstance(listed, Mapping) else []
        return any(isinstance(item, Mapping) and item.get("digest") == digest for item in manifests)

    def tags(self, reference: Reference) -> Tags:
        """The tags, page by page and at most 20,000. Raises TargetError when a page is not a registry's."""
        names: dict[str, None] = {}
        path: str | None = f"/v2/{reference.repository}/tags/list?n={_TAGS_PER_PAGE}"
        for _ in range(_MAX_PAGES):
            answer = self._request(reference, path or "", "GET")
            listed = answer.json()
            found = listed.get("tags", "") if isinstance(listed, Mapping) else ""
            if found is not None and not (isinstance(found, list) and all(isinstance(item, str) for item in found)):
                raise TargetError(f"{answer.url} has no list of tags", "check the registry", cause="malformed")
            names |= dict.fromkeys(found or ())
            path = self._next_page(reference, answer)
            if path is None:
                return Tags(tuple(names), complete=True)
        return Tags(tuple(names), complete=False)

    def _next_page(self, reference: Reference, answer: Answer) -> str | None:
        """The path of the next page, which must be of the same repository; None after the last page."""
        link = answer.headers.get("link", "")
        match = _NEXT.search(link)
        if match is None:
            return None
        parts = urlsplit(match[1])
        if parts.path != f"/v2/{reference.repository}/tags/list":
            raise TargetError(f"{answer.url} continues elsewhere: {match[1][:100]!r}", cause="malformed")
        return f"{parts.path}?{parts.query}"

    def _manifest(self, reference: Reference, which: str, method: str) -> Answer:
        return self._request(reference, f"/v2/{reference.repository}/manifests/{which}", method)

    def _request(self, reference: Reference, path: str, method: str) -> Answer:
        host = _HUB_HOST if reference.registry == _HUB else reference.registry
        url = f"{self._scheme(host)}://{host}{path}"
        answer = self._fetch(method, url, {})
        if answer.status == 401:
            answer = self._fetch(method, url, {"Authorization": self._authorization(reference, answer)})
        if answer.status in (401, 403):
            hint = f"set credentials for {reference.registry}"
            raise TargetError(f"{answer.url} answered {answer.status}", hint, cause="denied")
        if answer.status == 404:
            hint = "check the name and whether the tag was removed"
            raise TargetError(f"{reference}: not found in its registry", hint, cause="empty")
        if answer.status != 200:
            raise TargetError(
                f"{answer.url} answered {answer.status}", "check whether it is a registry", cause="failed"
            )
        return answer

    def _fetch(self, method: str, url: str, headers: Mapping[str, str]) -> Answer:
        """The answer; retries once when the registry asks for a short pause."""
        secret = {name: SecretStr(value) for name, value in {"Accept": _ACCEPT, **headers}.items()}
        for last in (False, True):
            answer = fetch(method, url, timeout=self._timeout, limit=_MANIFEST_LIMIT, headers=secret)
            if answer.status != 429:
                return answer
            pause = answer.headers.get("retry-after", "")
            if last or not pause.isdigit() or int(pause) > _MAX_RETRY_AFTER:
                break
            time.sleep(int(pause))
        again = f"retry in {seconds_text(int(pause))}" if pause.isdigit() else "run this less often, or set credentials"
        raise RateLimitedError(f"{url} answered 429: too many requests", again, cause="failed")

    def _authorization(self, reference: Reference, refused: Answer) -> str:
        """The header that the challenge demands: a token of its token server, or the login."""
        challenge = refused.headers.get("www-authenticate", "")
        scheme, _, rest = challenge.partition(" ")
        login = self._credentials.get(reference.registry)
        basic = ""
        if login is not None:
            pair = f"{login.username}:{login.password.get_secret_value()}"
            basic = f"Basic {base64.b64encode(pair.encode()).decode()}"
        if scheme.lower() == "basic" and basic:
            return basic
        if scheme.lower() != "bearer":
            hint = f"set credentials for {reference.registry}"
            raise TargetError(f"{refused.url} requires a login", hint, cause="denied")
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = fields.get("realm", "")
        if urlsplit(realm).scheme not in ("https", self._scheme(reference.registry)):
            raise TargetError(f"{refused.url}: its token server {realm!r} has no TLS", cause="malformed")
        query = {name: fields[name] for name in ("service", "scope") if name in fields}
        query.setdefault("scope", f"repository:{reference.repository}:pull")
        headers = {"Authorization": SecretStr(basic)} if basic else {}
        answer = fetch("GET", realm, timeout=self._timeout, headers=headers, params=query)
        if answer.status == 429:
            raise RateLimitedError(
                f"{answer.url} answered 429: too many requests", "run this less often", cause="failed"
            )
        if answer.status != 200:
            hint = f"{'check the' if basic else 'set'} credentials for {reference.registry}"
            cause = "denied" if answer.status in (400, 401, 403) else "failed"
            raise TargetError(f"{answer.url} issued no token: {answer.status}", hint, cause=cause)
        body = answer.json()
        token = (body.get("token") or body.get("access_token")) if isinstance(body, Mapping) else None
        if not isinstance(token, str):
            raise TargetError(f"{answer.url} issued no token", cause="malformed")
        return f"Bearer {token}"

    def _scheme(self, host: str) -> str:
        """Like the engine: no TLS for 127.0.0.0/8 and localhost."""
        name = host.rpartition(":")[0] or host
        try:
            local = ip_address(name.strip("[]")).is_loopback
        except ValueError:
            local = name == "localhost"
        return "http" if local or host in self._insecure else "https"
