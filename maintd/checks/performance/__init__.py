"""How a service did over whole days: requests, memory and CPU, alerts, and queries of its database."""
