"""Reads metrics in the text format of Prometheus, from a server's own `/metrics`."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from maintd.errors import TargetError


def sums(text: str, name: str, by: str = "") -> dict[str, float]:
    """The sums of a metric's samples by the value of label `by`; without a label, one sum under an empty text.

    Raises TargetError: `malformed` for another format, `empty` without a sample of this name.
    """
    found: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name:
                    key = sample.labels.get(by, "")
                    found[key] = found.get(key, 0.0) + sample.value
    except (ValueError, KeyError, IndexError) as error:
        raise TargetError("its metrics are not in Prometheus' text format", cause="malformed") from error
    if not found:
        raise TargetError(f"it has no metric {name}", cause="empty")
    return found
