"""Thin typed clients without judgement. Each has explicit time-outs and bounded answers."""
