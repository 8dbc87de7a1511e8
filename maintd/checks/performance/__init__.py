"""How a service did over whole days: its requests, its memory and CPU, its alerts, and what its database says."""

from maintd.reports.figure import Figure as Figure
from maintd.reports.figure import Track as Track
from maintd.reports.figure import unmeasured as unmeasured
