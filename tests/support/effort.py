"""The effort of a piece of code without a limit in seconds, which depends on the machine as much as on the code.

Calls are the same on a fast, a slow and a busy machine. What they do not see is one call that is slow in itself, such
as a regular expression: of that, the growth is measured.
"""

import sys
import time
from collections.abc import Callable


def calls_of(action: Callable[[], object]) -> int:
    """Count the calls that ``action`` makes in this thread, of functions written in Python and in C."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count


def grows_in_proportion(action: Callable[[int], object], small: int, large: int) -> bool:
    """Whether ``action(large)`` takes about ``large / small`` times the processor time of ``action(small)``.

    Six times as much is tolerated; the sizes must be a factor of ten apart, for what is quadratic takes the square.
    """

    def seconds(size: int) -> float:
        took = []
        for _ in range(3):
            began = time.process_time()
            action(size)
            took.append(time.process_time() - began)
        return min(took)

    seconds(small)  # the first use compiles
    return seconds(large) < 6 * (large / small) * max(seconds(small), 0.001)
