"""What ends the work at a terminal."""

from __future__ import annotations

from maintd.terminal import was_interrupted


def test_ctrl_c_is_recognised_below_the_error_of_a_library() -> None:
    of_library = ValueError("not built")
    of_library.__cause__ = KeyboardInterrupt()

    assert was_interrupted(of_library)
    assert was_interrupted(KeyboardInterrupt())
    assert not was_interrupted(ValueError("another"))
