"""End of support of well-known software, and which software an image contains.

The table is part of maintd, because maintenance hosts often have no internet access. It has the dates that the projects
publish, with the page and the day of each product's data; see docs/data/end_of_life.toml. What is not published is
unknown.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from maintd.checks.docker.end_of_life_table import AS_OF, ENDS, SOURCES, SUPPORTED
from maintd.checks.docker.images import Image
from maintd.clients.registry import Reference
from maintd.job.context import Context
from maintd.job.criterion import Criterion

# The last part of an image's repository → the product, and the image's environment variable with its version.
_IMAGES: Mapping[str, tuple[str, str]] = {
    "node": ("nodejs", "NODE_VERSION"),
    "postgres": ("postgresql", "PG_VERSION"),
    "redis": ("redis", "REDIS_VERSION"),
    "traefik": ("traefik", ""),
    "grafana": ("grafana", ""),
    "prometheus": ("prometheus", ""),
    "alertmanager": ("alertmanager", ""),
    "loki": ("grafana-loki", ""),
    "promtail": ("promtail", ""),
    "nginx": ("nginx", "NGINX_VERSION"),
    "alpine": ("alpine-linux", ""),
    "debian": ("debian", ""),
    "python": ("python", "PYTHON_VERSION"),
}
# Names of releases that tags use instead of numbers. Source: https://wiki.debian.org/DebianReleases
_CODE_NAMES: Mapping[str, str] = {"buster": "10", "bullseye": "11", "bookworm": "12", "trixie": "13"}
_VERSION = re.compile(r"v?(\d{1,3}(?:\.\d+){0,2})(?!\d)")


@dataclass(frozen=True)
class Software:
    """The software in an image. `version` is empty when it is not known."""

    product: str
    version: str

    @property
    def source(self) -> str:
        """The page on which its project publishes the dates."""
        return SOURCES.get(self.product, f"the project of {self.product}")

    @property
    def newer(self) -> bool:
        """Whether its version is newer than all that the table has."""
        releases = [_figures(release) for release in ENDS.get(self.product, {})]
        return bool(self.version and releases) and _figures(self.version)[: len(releases[-1])] > releases[-1]


@dataclass(frozen=True)
class Support:
    """The support of a release, until its last day or, without a published end, on the day of the table.

    `unknown` is the reason why the end is not known.
    """

    release: str
    ends: date | None = None
    unknown: str = ""


def software(repository: str, tag: str, environment: Mapping[str, str], labels: Mapping[str, str]) -> Software | None:
    """The software of an image by its repository; None when the table does not have it.

    The version is that of the image's variable or label, else of its tag.
    """
    product, variable = _IMAGES.get(repository.rpartition("/")[2], ("", ""))
    if not product:
        return None
    named = _CODE_NAMES.get(tag.partition("-")[0], tag) if product == "debian" else tag
    texts = (environment.get(variable, ""), labels.get("org.opencontainers.image.version", ""), named)
    versions = [match[1] for text in texts if (match := _VERSION.match(text))]
    return Software(product, versions[0] if versions else "")


def support(found: Software, overrides: Mapping[str, Mapping[str, date]] | None = None) -> Support | None:
    """The support of the release that a version belongs to; None when the table has no such release.

    `overrides`, the operator's dates, have precedence. A version that is less precise than the releases, `7` of `7.0`
    and `7.2`, belongs to none of them.
    """
    for table in ((overrides or {}).get(found.product, {}), ENDS.get(found.product, {})):
        releases = [name for name in table if f"{found.version}.".startswith(f"{name}.")]
        if releases and found.version:
            release = max(releases, key=len)
            end = table[release]
            if isinstance(end, date):
                return Support(release, end)
            return Support(release, unknown="" if end == SUPPORTED else end)
    return None


def support_criterion(
    service: str,
    found: Software,
    overrides: Mapping[str, Mapping[str, date]],
    today: date,
    within: timedelta,
    max_age: timedelta,
) -> Criterion | None:
    """Days of support left: fewer than `within` warn, none fails.

    Unknown for a release that the table has without a date, or does not have; optional for what is as new as that, as
    the end of its support is far. None for one that was supported without a published end, unless the table is older
    than `max_age`.
    """
    name = f"{service}: days of support left"
    known = support(found, overrides)
    day = AS_OF.get(found.product, date.min)
    hint = f"see {found.source}, and set end_of_life: {{{found.product}: {{RELEASE: DATE}}}}"
    if known is None:
        version = f"version {found.version}" if found.version else "its version"
        cause = f"{version} of {found.product} is not in the table of {day}"
        return Criterion(name, unknown=cause, equals="a date", hint=hint, optional=found.newer)
    release = f"{found.product} {known.release}"
    if known.unknown:
        cause = f"{release}: {known.unknown}"
        return Criterion(name, unknown=cause, equals="a date", hint=hint, optional=True)
    if known.ends is not None:
        hint = f"{release} is supported until {known.ends}: {found.source}, as of {day}"
        left = (known.ends - today).days
        return Criterion(name, left, at_least=0, warn_below=within.days, unit="day", hint=hint)
    if today - day > max_age:
        cause = f"{release} was supported on {day}, which is {(today - day).days} days ago"
        return Criterion(name, unknown=cause, equals="a date", hint=hint)
    return None


def age_criterion(products: Collection[str], today: date, max_age: timedelta) -> Criterion | None:
    """The age of the table's oldest data about these products: more than `max_age` warns. None without any of them."""
    days = {product: AS_OF[product] for product in products if product in AS_OF}
    if not days:
        return None
    oldest = min(days, key=lambda product: days[product])
    hint = f"{oldest}: recorded on {days[oldest]}; install a newer maintd, or set end_of_life from {SOURCES[oldest]}"
    age = (today - days[oldest]).days
    return Criterion("age of the end-of-life dates", age, warn_above=max_age.days, unit="day", hint=hint)


class SupportCheck:
    """Reports the support of the software of one run's services."""

    def __init__(
        self, ctx: Context, overrides: Mapping[str, Mapping[str, date]], within: timedelta, max_age: timedelta
    ) -> None:
        self._ctx = ctx
        self._overrides = overrides
        self._within = within
        self._max_age = max_age
        self._products: set[str] = set()

    def report(self, service: str, reference: Reference, image: Image) -> None:
        """Report the support of a service's software, if the table has it."""
        ctx = self._ctx
        found = software(reference.repository, reference.tag, image.environment, image.labels)
        if found is None:
            ctx.log(f"{service}: the support of {reference.repository} is not in the table")
            return
        self._products.add(found.product)
        today = ctx.now().date()
        criterion = support_criterion(service, found, self._overrides, today, self._within, self._max_age)
        if criterion is None:
            ctx.log(
                f"{service}: {found.product} {found.version} was supported on {AS_OF[found.product]}, without an end"
            )
            return
        ctx.report([criterion])
        if isinstance(criterion.observed, int):
            ctx.measure("image_support_days", criterion.observed, "day", service=service)

    def report_age(self) -> None:
        """Report the age of the dates that were used."""
        criterion = age_criterion(self._products, self._ctx.now().date(), self._max_age)
        if criterion is not None:
            self._ctx.report([criterion])


def _figures(version: str) -> tuple[int, ...]:
    return tuple(int(figure) for figure in version.split("."))
