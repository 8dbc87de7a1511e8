"""The services of a compose project: their containers, restarted or replaced one at a time, each with a health gate."""
