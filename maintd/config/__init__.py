"""Settings, configuration files with line numbers, the origin of each value, the state directory and logging."""
