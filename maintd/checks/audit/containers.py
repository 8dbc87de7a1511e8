"""Containers against sections 4 and 5 of the CIS Docker Benchmark.

Not examined, because the engine's description does not show it: 5.7 sshd in a container, 5.9 which ports are needed,
5.19 ulimits, 5.23 and 5.24 what `docker exec` was used for. 5.28, newer images, is the job `image_updates`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import PurePosixPath

from maintd.checks.audit.inspected import Binding, Inspected
from maintd.checks.audit.rule import Blind, Outcome, Rule, Violation
from maintd.checks.hints import printable
from maintd.model.evidence import CheckStatus

CIS = "CIS Docker Benchmark 1.6.0"

DEFAULT_CAPABILITIES = frozenset(
    (
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW"),
        *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
)
"""What a container has anyway. Source: https://docs.docker.com/engine/containers/run/#runtime-privilege"""

SENSITIVE = ("/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr")
"""Folders of the host that a container must not be able to write. Source: 5.6 of the benchmark."""

_SOCKETS = frozenset({"docker.sock", "containerd.sock", "podman.sock"})


@dataclass(frozen=True)
class Site:
    """What differs between sites. ports: those that may be published on all addresses. proxies: services that are a
    proxy before the engine, and have its socket. profiles: what the engine supports: apparmor, selinux, userns."""

    ports: frozenset[int] = frozenset({80, 443})
    proxies: frozenset[str] = frozenset()
    profiles: frozenset[str] = frozenset()


Find = Callable[[Inspected, Site], str]
"""What was observed that the rule forbids; empty when the rule is followed."""

FAIL, WARN = CheckStatus.FAIL, CheckStatus.WARN
_RULES: list[tuple[Rule, Find, str]] = []
"""With the profile that the engine must support for a rule to apply, if any."""


def _add(number: str, severity: CheckStatus, title: str, wanted: str, change: str, find: Find, needs: str = "") -> None:
    _RULES.append((Rule(f"cis-docker-{number}", severity, title, f"{CIS}, {number}", wanted, change), find, needs))


def _root(one: Inspected, site: Site) -> str:
    name = one.user.partition(":")[0]
    return "" if name not in ("", "0", "root") or "userns" in site.profiles else f"user {one.user or 'root'}"


def _capabilities(one: Inspected, _: Site) -> str:
    added = {name.upper().removeprefix("CAP_") for name in one.host.cap_add} - DEFAULT_CAPABILITIES
    return f"cap_add {', '.join(sorted(added))}" if added else ""


def _sensitive(one: Inspected, _: Site) -> str:
    found = [mount.source for mount in one.mounts if mount.rw and _is_sensitive(mount.source)]
    return f"can write {', '.join(map(printable, found[:5]))}" if found else ""


def _is_sensitive(source: str) -> bool:
    if not source.startswith("/") or PurePosixPath(source).name in _SOCKETS:
        return False  # a named volume; sockets have a rule of their own
    path = PurePosixPath(source)
    return path == PurePosixPath("/") or any(path.is_relative_to(folder) for folder in SENSITIVE)


def _ports(one: Inspected, wanted: Callable[[Binding, int], bool]) -> str:
    pairs = ((item, int(item.host_port)) for item in one.published if item.host_port.isdecimal())
    found = {f"{item.host_ip or '0.0.0.0'}:{port}" for item, port in pairs if wanted(item, port)}
    return f"published on {', '.join(sorted(found)[:8])}" if found else ""


def _low_ports(one: Inspected, site: Site) -> str:
    return _ports(one, lambda _, port: port < 1024 and port not in site.ports)


def _open_ports(one: Inspected, site: Site) -> str:
    return _ports(one, lambda item, port: port not in site.ports and _is_everywhere(item.host_ip))


def _is_everywhere(address: str) -> bool:
    try:
        return ip_address(address.strip("[]") or "0.0.0.0").is_unspecified
    except ValueError:
        return True


def _socket(one: Inspected, site: Site) -> str:
    found = [mount.source for mount in one.mounts if PurePosixPath(mount.source).name in _SOCKETS]
    return f"mounts {', '.join(map(printable, found[:3]))}" if found and one.service not in site.proxies else ""


def _restart(one: Inspected, _: Site) -> str:
    policy = one.host.restart_policy
    if policy.name == "always" or (policy.name == "on-failure" and not 0 < policy.maximum_retry_count <= 5):
        return f"restart {policy.name}" + (f":{policy.maximum_retry_count}" if policy.name == "on-failure" else "")
    return ""


def _propagation(one: Inspected, _: Site) -> str:
    found = [printable(mount.destination) for mount in one.mounts if mount.propagation in ("shared", "rshared")]
    return f"shared propagation of {', '.join(found[:5])}" if found else ""


def _privileges(one: Inspected, _: Site) -> str:
    return "" if one.option("no-new-privileges") == "true" else "may gain privileges, for example by sudo"


_add(
    "4.1",
    WARN,
    "containers that run as root",
    "another user",
    "set user: in the compose file, or USER in the Dockerfile, and give that user its files",
    _root,
)
_add(
    "5.2",
    WARN,
    "containers without an AppArmor profile",
    "a profile",
    "remove apparmor=unconfined from security_opt: docker-default then applies",
    lambda one, _: "" if one.app_armor not in ("", "unconfined") else f"profile {one.app_armor or 'none'}",
    "apparmor",
)
_add(
    "5.3",
    WARN,
    "containers without an SELinux label",
    "a label",
    "remove label=disable from security_opt",
    lambda one, _: "" if one.process_label and one.option("label") != "disable" else "label disable",
    "selinux",
)
_add(
    "5.4",
    FAIL,
    "containers with additional capabilities",
    "none beyond Docker's default",
    "remove it from cap_add, better with cap_drop: [ALL] and only what the program needs",
    _capabilities,
)
_add(
    "5.5",
    FAIL,
    "privileged containers",
    "privileged: false",
    "remove privileged: true; give it the one device or capability that it needs",
    lambda one, _: "privileged" if one.host.privileged else "",
)
_add(
    "5.6",
    FAIL,
    "containers that can write folders of the host's system",
    "no such mount, or read-only",
    "remove the volume, or end it with :ro",
    _sensitive,
)
_add(
    "5.8",
    WARN,
    "containers with privileged ports",
    "ports from 1024 on, but for those that are allowed",
    "publish a port from 1024 on, or add it to the param published_ports",
    _low_ports,
)
_add(
    "5.10",
    FAIL,
    "containers in the host's network",
    "a network of its own",
    "remove network_mode: host, and publish the ports that are needed",
    lambda one, _: "network_mode host" if one.host.network_mode == "host" else "",
)
_add(
    "5.11",
    WARN,
    "containers without a memory limit",
    "a limit",
    "set mem_limit: or deploy.resources.limits.memory",
    lambda one, _: "no memory limit" if one.host.memory <= 0 else "",
)
_add(
    "5.12",
    WARN,
    "containers without a CPU limit",
    "a limit or shares",
    "set cpus: or cpu_shares:",
    lambda one, _: "" if one.host.nano_cpus > 0 or one.host.cpu_quota > 0 or one.host.cpu_shares > 0 else "no limit",
)
_add(
    "5.13",
    WARN,
    "containers with a writable root file system",
    "read_only: true",
    "set read_only: true, with tmpfs: [/tmp] and volumes for what it writes",
    lambda one, _: "" if one.host.readonly_rootfs else "writable",
)
_add(
    "5.14",
    WARN,
    "containers with ports on every address",
    "a port on one address",
    "publish it as 127.0.0.1:PORT:PORT, or add it to the param published_ports",
    _open_ports,
)
_add(
    "5.15",
    WARN,
    "containers that restart without end",
    "on-failure with at most 5 retries, or unless-stopped",
    "set restart: on-failure:5, or unless-stopped",
    _restart,
)
_add(
    "5.16",
    FAIL,
    "containers that see the host's processes",
    "a namespace of its own",
    "remove pid: host",
    lambda one, _: "pid host" if one.host.pid_mode == "host" else "",
)
_add(
    "5.17",
    FAIL,
    "containers with the host's shared memory",
    "a namespace of its own",
    "remove ipc: host",
    lambda one, _: "ipc host" if one.host.ipc_mode == "host" else "",
)
_add(
    "5.18",
    WARN,
    "containers with devices of the host",
    "no device",
    "remove devices: or name it in a waiver",
    lambda one, _: f"{len(one.host.devices)} devices" if one.host.devices else "",
)
_add(
    "5.20",
    WARN,
    "containers with shared mount propagation",
    "private, slave or rslave",
    "remove propagation: shared from the volume",
    _propagation,
)
_add(
    "5.21",
    FAIL,
    "containers in the host's UTS namespace",
    "a namespace of its own",
    "remove uts: host",
    lambda one, _: "uts host" if one.host.uts_mode == "host" else "",
)
_add(
    "5.22",
    FAIL,
    "containers without seccomp",
    "the default profile, or one of its own",
    "remove seccomp=unconfined from security_opt",
    lambda one, _: "seccomp unconfined" if one.option("seccomp") == "unconfined" else "",
)
_add(
    "5.25",
    WARN,
    "containers below another cgroup",
    "the engine's cgroup",
    "remove cgroup_parent:",
    lambda one, _: f"cgroup_parent {printable(one.host.cgroup_parent)}" if one.host.cgroup_parent else "",
)
_add(
    "5.26",
    WARN,
    "containers that may gain privileges",
    "no-new-privileges",
    "set security_opt: [no-new-privileges:true]",
    _privileges,
)
_add(
    "5.27",
    WARN,
    "containers without a health check",
    "a health check",
    "set healthcheck: in the compose file",
    lambda one, _: "" if one.health_check else "no health check",
)
_add(
    "5.29",
    WARN,
    "containers without a limit of processes",
    "a limit",
    "set pids_limit: 200",
    lambda one, _: "" if one.host.pids_limit > 0 else "no limit",
)
_add(
    "5.30",
    WARN,
    "containers in the default bridge",
    "a network of their own",
    "name a network in networks:",
    lambda one, _: "network_mode bridge" if one.host.network_mode in ("default", "bridge") else "",
)
_add(
    "5.31",
    FAIL,
    "containers with the host's users",
    "the user namespace of the engine",
    "remove userns_mode: host",
    lambda one, _: "userns_mode host" if one.host.userns_mode == "host" else "",
)
_add(
    "5.32",
    FAIL,
    "containers with the engine's socket",
    "a proxy that allows only what is needed",
    "reach the engine by a socket proxy; name the proxy itself in the param socket_proxies",
    _socket,
)

ENVIRONMENT = Rule(
    "docker-environment",
    WARN,
    "containers with secrets in their environment",
    "OWASP Docker Security, rule 12",
    "a file below /run/secrets",
    "write it into a file below /run/secrets, and set NAME_FILE; who may inspect sees the value",
)
_RULES.append((ENVIRONMENT, lambda one, _: ", ".join(one.secret_variables[:8]), ""))
RULES = tuple(rule for rule, _, _ in _RULES)


def outcomes(place: str, containers: Sequence[Inspected], blind: Sequence[Blind], site: Site) -> list[Outcome]:
    """What was seen of each rule."""
    found = []
    for rule, find, needs in _RULES:
        if needs and needs not in site.profiles:
            found.append(Outcome(rule, place, 0, not_applicable=f"the engine has no {needs}"))
            continue
        # A profile is applied at the start, and gone afterwards.
        concerned = [one for one in containers if one.running or not needs]
        seen = [(one.label, find(one, site)) for one in concerned]
        violations = tuple(Violation(label, observed) for label, observed in seen if observed)
        found.append(Outcome(rule, place, len(concerned), violations, tuple(blind)))
    return found
