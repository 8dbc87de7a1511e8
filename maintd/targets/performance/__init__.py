"""How a service did over whole days: its requests, its memory and CPU, its alerts, and what its database says."""

from maintd.figures import Figure as Figure
from maintd.figures import Track as Track
from maintd.figures import unmeasured as unmeasured
