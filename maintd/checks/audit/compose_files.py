"""Compose files: images without a version, secrets in the environment, Redis without a password, published ports.

Each file is examined by itself, as it is written: what a variable or another file changes at the start is seen in the
containers. Values are never kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml

from maintd.checks.audit.rule import Blind, Outcome, Rule, Violation
from maintd.checks.audit.secret_names import holds_secret
from maintd.checks.hints import printable
from maintd.clients.bounded import check_yaml
from maintd.clients.files import read_regular
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus

MAX_FILE = 1 << 20
FAIL, WARN = CheckStatus.FAIL, CheckStatus.WARN

LATEST = Rule(
    "compose-latest",
    WARN,
    "services whose image has no version",
    "Docker, Building best practices: pin versions",
    "a version or digest",
    "name a version: image: NAME:1.2.3, or NAME@sha256:…",
)
ENVIRONMENT = Rule(
    "compose-environment",
    WARN,
    "services with secrets in the environment",
    "OWASP Docker Security, rule 12",
    "NAME_FILE below /run/secrets",
    "move it into a file, set NAME_FILE=/run/secrets/NAME, and rotate the value",
)
REDIS = Rule(
    "compose-redis-auth",
    FAIL,
    "Redis services without authentication",
    "Redis, Security: Authentication",
    "requirepass, or an ACL file",
    "command: redis-server --aclfile /etc/redis/redis.acl, with users of their own",
)
PORTS = Rule(
    "compose-ports",
    WARN,
    "services with ports on every address",
    "CIS Docker Benchmark 1.6.0, 5.14",
    "a port on one address",
    "publish it as 127.0.0.1:PORT:PORT, remove it, or add it to the param published_ports",
)
RULES = (LATEST, ENVIRONMENT, REDIS, PORTS)

_DEFAULT = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*:?-([^${}]*)\}")
_VARIABLE = re.compile(r"(?<!\$)\$(?:\{[^}]*\}|[A-Za-z_])")


class _Loader(yaml.SafeLoader):
    """Compose's own tags, `!reset` and `!override`, are read as if they were not there."""


def _untagged(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_Loader.add_multi_constructor("!", _untagged)


@dataclass(frozen=True)
class Service:
    """A service as it is written, and the line of its name."""

    name: str
    line: int
    definition: Mapping[str, Any]


def read(path: Path) -> list[Service]:
    """The services of a file. Raises TargetError, whose message has nothing of the file's content."""
    content = read_regular(path, MAX_FILE, "correct the param compose, or mount it, and let maintd's user read it")
    try:
        text = content.decode()
        check_yaml(text, str(path))
        found = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
        lines = _lines(yaml.compose(text, yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise TargetError(f"{path}: is not YAML{where}", "docker compose config", cause="malformed") from None
    services = found.get("services") if isinstance(found, dict) else None
    if not isinstance(services, dict):
        raise TargetError(f"{path}: has no services", "name a compose file", cause="malformed")
    return [
        Service(printable(str(name)), lines.get(str(name), 0), definition if isinstance(definition, dict) else {})
        for name, definition in services.items()
    ]


def _lines(root: yaml.Node | None) -> dict[str, int]:
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "services" and isinstance(value, yaml.MappingNode):
            return {str(name.value): name.start_mark.line + 1 for name, _ in value.value}
    return {}


def outcomes(path: Path, services: Sequence[Service], ports: frozenset[int]) -> list[Outcome]:
    """What was seen of each rule. ports: those that may be published on every address."""
    finders: tuple[tuple[Rule, Callable[[Mapping[str, Any]], str | None]], ...] = (
        (LATEST, _latest),
        (ENVIRONMENT, _environment),
        (REDIS, _redis),
        (PORTS, lambda definition: _ports(definition, ports)),
    )
    found = []
    for rule, find in finders:
        concerned = [one for one in services if rule is not REDIS or _is_redis(one.definition)]
        violations, blind = [], []
        for service in concerned:
            observed = find(service.definition)
            if observed is None:
                blind.append(Blind(service.name, "a variable or another file decides it", optional=True))
            elif observed:
                violations.append(Violation(service.name, observed, file=str(path), line=service.line))
        missing = "" if concerned else "no service of this file is concerned"
        examined = len(concerned) - len(blind)
        found.append(Outcome(rule, place(path), examined, tuple(violations), tuple(blind), missing))
    return found


def place(path: Path) -> str:
    """The name of a file in checks: with its folder, since most are called alike."""
    return printable(f"compose {path.parent.name}/{path.name}")


def _expanded(text: str) -> str:
    """A text with the defaults of its variables, as compose fills them in."""
    return _DEFAULT.sub(lambda match: match[1], text)


def _image(definition: Mapping[str, Any]) -> str:
    return _expanded(str(definition.get("image") or ""))


def _latest(definition: Mapping[str, Any]) -> str | None:
    image = _image(definition)
    if "build" in definition or not image or "@sha256:" in image:
        return ""  # made here: its base is in the Dockerfile
    tag = image.rpartition("/")[2].partition(":")[2]
    if _VARIABLE.search(tag) or (not tag and _VARIABLE.search(image)):
        return None
    return f"image {printable(image[:100])}" if tag in ("", "latest") else ""


def _environment(definition: Mapping[str, Any]) -> str:
    names = sorted({name for name, value in _variables(definition.get("environment")) if holds_secret(name, value)})
    return ", ".join(printable(name[:80]) for name in names[:8])


def _variables(given: Any) -> Iterator[tuple[str, str]]:
    """Names and values; a name without a value takes that of the shell."""
    if isinstance(given, dict):
        yield from ((str(name), "$" if value is None else str(value)) for name, value in given.items())
    elif isinstance(given, list):
        for item in given:
            name, separator, value = str(item).partition("=")
            yield name, value if separator else "$"


def _is_redis(definition: Mapping[str, Any]) -> bool:
    name = _image(definition).partition("@")[0].rpartition("/")[2].partition(":")[0]
    return name in ("redis", "valkey", "redis-stack", "redis-stack-server", "keydb", "dragonfly")


def _redis(definition: Mapping[str, Any]) -> str | None:
    words = " ".join(
        str(word)
        for given in (definition.get("entrypoint"), definition.get("command"))
        for word in (given if isinstance(given, list) else [given or ""])
    )
    if re.search(r"--(?:requirepass|aclfile|user)\b", words):
        return ""
    if re.search(r"\.conf\b", words) or _variables_in(words, definition):
        return None
    return "no requirepass and no aclfile in its command"


def _variables_in(words: str, definition: Mapping[str, Any]) -> bool:
    """Whether a variable, or the image's own (REDIS_PASSWORD of Bitnami), may set it."""
    names = {name for name, _ in _variables(definition.get("environment"))}
    return bool(_VARIABLE.search(words)) or bool(names & {"REDIS_PASSWORD", "REDIS_ARGS", "VALKEY_PASSWORD"})


def _ports(definition: Mapping[str, Any], allowed: frozenset[int]) -> str:
    found, ports_given = [], definition.get("ports")
    for item in ports_given if isinstance(ports_given, list) else ():
        if isinstance(item, dict):
            host, published = str(item.get("host_ip") or ""), _expanded(str(item.get("published") or ""))
        else:
            parts = _split(_expanded(str(item)).partition("/")[0])
            host, published = (parts[0] if len(parts) > 2 else "", parts[-2] if len(parts) > 1 else "")
        ports = re.findall(r"\d+", published)
        if _is_everywhere(host) and not (ports and all(int(port) in allowed for port in ports)):
            found.append(published or "a random port")
    return f"published on every address: {', '.join(map(printable, found[:8]))}" if found else ""


def _split(text: str) -> list[str]:
    """`[::1]:80:80` and `127.0.0.1:80:80` by colons outside of brackets."""
    return re.split(r":(?![^\[]*\])", text)


def _is_everywhere(host: str) -> bool:
    try:
        return ip_address(host.strip("[]") or "0.0.0.0").is_unspecified
    except ValueError:
        return False  # a name or a variable: one address
