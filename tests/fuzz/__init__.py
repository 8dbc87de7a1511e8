"""Fuzzing: hostile bytes, and the properties that must hold for all of them. See docs/fuzzing.md."""
