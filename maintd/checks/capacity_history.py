"""Forecasts of capacity kept as measures, and compared with the values a month later."""

from __future__ import annotations

from maintd.job.context import Context
from maintd.reports.forecast import Forecast
from maintd.reports.resource import MONTH, Backtest, Resource, backtest

LEVELS = ("forecast_level_low", "forecast_level", "forecast_level_high")
QUANTILES = (0.1, 0.5, 0.9)


def compare_with_last_month(ctx: Context, resources: list[Resource]) -> Backtest:
    """Compare last month's forecasts with the current values."""
    forecasts, actual = {}, {}
    for item in resources:
        if item.figure.measure and item.figure.value is not None:
            low, likely, high = (
                [(p.at, p.value) for p in ctx.series(name, of=item.figure.measure, **item.figure.labels)]
                for name in LEVELS
            )
            forecasts[item.key], actual[item.key] = (low, likely, high), item.figure.value
    return backtest(forecasts, actual, ctx.now())


def record_forecasts(ctx: Context, resources: list[Resource]) -> None:
    """Record the forecasts as measures, to compare them with the actual values in a month."""
    for item in resources:
        if not isinstance(item.outlook, Forecast):
            continue
        figure, outlook = item.figure, item.outlook
        labels = {"of": figure.measure, **figure.labels}
        if figure.kind in ("file system", "folder", "database", "memory"):
            for name, part in zip(LEVELS, QUANTILES, strict=True):
                ctx.measure(name, outlook.at(MONTH, part), figure.unit, **labels)
        reach = outlook.reach(figure.capacity) if figure.capacity else None
        if reach is not None:
            for quantile, days in (("p10", reach.earliest), ("p50", reach.likely), ("p90", reach.latest)):
                if days is not None:
                    ctx.measure("forecast_days_until_full", days, "day", quantile=quantile, **labels)
