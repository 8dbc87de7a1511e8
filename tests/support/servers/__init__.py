"""Real servers for tests, each private to the test session, on free loopback ports, stopped at its end."""
