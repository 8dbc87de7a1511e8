"""Settings, the YAML reader, the origin of each setting, the state directory and logging."""
