"""What fills up: figures of hosts, folders, databases, Redis, engines and Prometheus, for trends and forecasts.

Each collector gives figures; one that cannot be measured is there with its cause, never as zero.
"""

from maintd.reports.figure import Figure as Figure
