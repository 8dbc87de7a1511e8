"""Thin typed clients of other systems, with timeouts and bounded answers. They evaluate nothing."""
