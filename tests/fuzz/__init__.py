"""Fuzzing: bytes that nobody would write, and what must hold whatever they are. See docs/fuzzing.md."""
