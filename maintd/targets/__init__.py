"""Thin typed clients that jobs use. Every one has explicit time-outs and bounded answers."""
