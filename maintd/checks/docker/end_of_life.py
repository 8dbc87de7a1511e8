"""End of support of well-known software, and which software an image contains.

The table is vendored, because maintenance hosts often have no internet access. Source: https://endoflife.date/PRODUCT,
which refers to the vendors' release policies. A release without a date was supported, without an announced end, on the
day of the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from maintd.job.context import Context
from maintd.job.criterion import Criterion

AS_OF = date(2026, 9, 17)
"""The day of the newest data."""
STALE_AFTER = timedelta(days=365)
"""After this time, a release without a date is unknown."""

# endoflife.date's name of a product → its releases and the last day of support. A release is a prefix of a version.
TABLE: Mapping[str, Mapping[str, date | None]] = {
    "nodejs": {
        "14": date(2023, 4, 30),
        "16": date(2023, 9, 11),
        "17": date(2022, 6, 1),
        "18": date(2025, 4, 30),
        "19": date(2023, 6, 1),
        "20": date(2026, 4, 30),
        "21": date(2024, 6, 1),
        "22": date(2027, 4, 30),
        "23": date(2025, 6, 1),
    },
    "postgresql": {
        "9.6": date(2021, 11, 11),
        "10": date(2022, 11, 10),
        "11": date(2023, 11, 9),
        "12": date(2024, 11, 21),
        "13": date(2025, 11, 13),
        "14": date(2026, 11, 12),
        "15": date(2027, 11, 11),
        "16": date(2028, 11, 9),
        "17": date(2029, 11, 8),
    },
    "redis": {
        "5.0": date(2022, 4, 27),
        "6.0": date(2022, 5, 31),
        "6.2": None,
        "7.0": date(2024, 7, 29),
        "7.2": None,
        "7.4": None,
        "8.0": date(2026, 2, 11),
        "8.2": None,
        "8.4": None,
        "8.6": None,
    },
    "traefik": {
        "1.7": date(2021, 12, 31),
        "2.8": date(2022, 10, 3),
        "2.9": date(2023, 4, 24),
        "2.10": date(2024, 2, 12),
        "2.11": date(2026, 2, 1),
        "3.0": date(2024, 7, 15),
        "3.1": date(2024, 10, 28),
        "3.2": date(2025, 1, 6),
        "3.3": date(2025, 5, 5),
        "3.4": date(2025, 7, 23),
        "3.5": date(2025, 11, 7),
        "3.6": date(2026, 8, 16),
        "3.7": None,
    },
    "grafana": {
        "8": date(2023, 6, 9),
        "9.5": date(2024, 5, 14),
        "10.0": date(2023, 10, 24),
        "10.1": date(2024, 1, 23),
        "10.2": date(2024, 7, 24),
        "10.3": date(2024, 10, 23),
        "10.4": date(2025, 6, 5),
        "11.0": date(2025, 2, 14),
        "11.1": date(2025, 4, 23),
        "11.2": date(2025, 5, 27),
        "11.3": date(2025, 7, 22),
        "11.4": date(2025, 9, 5),
        "11.5": date(2025, 10, 28),
        "11.6": date(2026, 6, 25),
        "12.0": date(2026, 2, 5),
        "12.1": date(2026, 4, 22),
        "12.2": date(2026, 6, 23),
        "12.3": date(2026, 8, 19),
        "12.4": date(2027, 5, 24),
        "13.0": date(2027, 1, 9),
        "13.1": date(2027, 3, 20),
        "13.2": date(2027, 5, 18),
    },
    "prometheus": {
        "2.37": date(2023, 7, 31),
        "2.42": date(2023, 3, 14),
        "2.45": date(2024, 7, 31),
        "2.53": date(2025, 7, 31),
        "2.54": date(2024, 9, 20),
        "2.55": date(2024, 12, 3),
        "3.0": date(2024, 12, 26),
        "3.1": date(2025, 2, 13),
        "3.2": date(2025, 3, 31),
        "3.3": date(2025, 5, 27),
        "3.4": date(2025, 6, 28),
        "3.5": date(2026, 7, 31),
        "3.6": date(2025, 11, 2),
        "3.7": date(2025, 11, 26),
        "3.8": date(2026, 1, 9),
        "3.9": date(2026, 2, 17),
        "3.10": date(2026, 4, 8),
    },
    "grafana-loki": {
        "2.7": date(2023, 9, 6),
        "2.8": date(2024, 4, 8),
        "2.9": None,
        "3.0": date(2024, 9, 18),
        "3.1": date(2024, 11, 19),
        "3.2": date(2025, 2, 12),
        "3.3": date(2025, 4, 17),
        "3.4": date(2025, 11, 17),
        "3.5": date(2026, 3, 26),
        "3.6": None,
        "3.7": None,
    },
    "nginx": {
        "1.22": date(2023, 4, 11),
        "1.23": date(2023, 5, 23),
        "1.24": date(2024, 4, 23),
        "1.25": date(2024, 5, 29),
        "1.26": date(2025, 4, 23),
        "1.27": date(2025, 6, 24),
        "1.28": None,
        "1.29": None,
    },
    "alpine-linux": {
        "3.16": date(2024, 5, 23),
        "3.17": date(2024, 11, 22),
        "3.18": date(2025, 5, 9),
        "3.19": date(2025, 11, 1),
        "3.20": date(2026, 4, 1),
        "3.21": date(2026, 11, 1),
        "3.22": date(2027, 5, 1),
        "3.23": date(2027, 11, 1),
    },
    "python": {
        "3.7": date(2023, 6, 27),
        "3.8": date(2024, 10, 14),
        "3.9": date(2025, 10, 5),
        "3.10": date(2026, 10, 4),
        "3.11": date(2027, 10, 24),
    },
}

# The last part of an image's repository → the product, and the image's environment variable with its version.
_IMAGES: Mapping[str, tuple[str, str]] = {
    "node": ("nodejs", "NODE_VERSION"),
    "postgres": ("postgresql", "PG_VERSION"),
    "redis": ("redis", "REDIS_VERSION"),
    "traefik": ("traefik", ""),
    "grafana": ("grafana", ""),
    "prometheus": ("prometheus", ""),
    "loki": ("grafana-loki", ""),
    "promtail": ("grafana-loki", ""),
    "nginx": ("nginx", "NGINX_VERSION"),
    "alpine": ("alpine-linux", ""),
    "python": ("python", "PYTHON_VERSION"),
}
_VERSION = re.compile(r"v?(\d{1,3}(?:\.\d+){0,2})(?!\d)")


@dataclass(frozen=True)
class Software:
    """The software in an image. `version` is empty when it is not known."""

    product: str
    version: str

    @property
    def source(self) -> str:
        """URL of the release policy."""
        return f"https://endoflife.date/{self.product}"


@dataclass(frozen=True)
class Support:
    """The last day of support of a release; None: no end was announced on the day of the table."""

    release: str
    ends: date | None


def software(repository: str, tag: str, environment: Mapping[str, str], labels: Mapping[str, str]) -> Software | None:
    """The software of an image by its repository; None when the table does not have it.

    The version is that of the image's variable or label, else of its tag.
    """
    product, variable = _IMAGES.get(repository.rpartition("/")[2], ("", ""))
    if not product:
        return None
    texts = (environment.get(variable, ""), labels.get("org.opencontainers.image.version", ""), tag)
    versions = [match[1] for text in texts if (match := _VERSION.match(text))]
    return Software(product, versions[0] if versions else "")


def support(found: Software, overrides: Mapping[str, Mapping[str, date]] | None = None) -> Support | None:
    """The support of the release that a version belongs to; None when the table has no such release.

    `overrides`, the operator's dates, have precedence. A version that is less precise than the releases, `7` of `7.0`
    and `7.2`, belongs to none of them.
    """
    for table in ((overrides or {}).get(found.product, {}), TABLE.get(found.product, {})):
        releases = [name for name in table if f"{found.version}.".startswith(f"{name}.")]
        if releases and found.version:
            release = max(releases, key=len)
            return Support(release, table[release])
    return None


def support_criterion(
    service: str, found: Software, overrides: Mapping[str, Mapping[str, date]], today: date, within: timedelta
) -> Criterion | None:
    """Days of support left: fewer than `within` warn, none fails.

    Unknown for a release that is not in the table; None for one that was supported without an announced end.
    """
    name = f"{service}: days of support left"
    known = support(found, overrides)
    if known is None:
        version = f"version {found.version}" if found.version else "its version"
        cause = f"{version} of {found.product} is not in the table of {AS_OF}"
        hint = f"see {found.source}, and set end_of_life: {{{found.product}: …}}"
        return Criterion(name, unknown=cause, equals="a date", hint=hint)
    release = f"{found.product} {known.release}"
    if known.ends is not None:
        hint = f"{release} is supported until {known.ends}: {found.source}, as of {AS_OF}"
        left = (known.ends - today).days
        return Criterion(name, left, at_least=0, warn_below=within.days, unit="day", hint=hint)
    if today - AS_OF > STALE_AFTER:
        cause = f"{release} was supported on {AS_OF}"
        return Criterion(name, unknown=cause, equals="a date", hint=f"see {found.source}")
    return None


def report(
    ctx: Context, service: str, found: Software, overrides: Mapping[str, Mapping[str, date]], within: timedelta
) -> None:
    """Report the support of a service's software."""
    criterion = support_criterion(service, found, overrides, ctx.now().date(), within)
    if criterion is None:
        ctx.log(f"{service}: {found.product} {found.version} was supported on {AS_OF}, without an announced end")
        return
    ctx.report([criterion])
    if isinstance(criterion.observed, int):
        ctx.measure("image_support_days", criterion.observed, "day", service=service)
