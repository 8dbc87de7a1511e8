"""Collections that know when they left something out, and the checks that depend on them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from maintd.checks.read_tally import SAMPLE_LENGTH, ReadTally
from maintd.job.bounded import BoundedCounter, BoundedDict, BoundedList
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus


def counter_of(limit: int, *keys: str) -> BoundedCounter[str]:
    counter = BoundedCounter[str](limit)
    for key in keys:
        counter.add(key)
    return counter


def test_a_counter_at_its_limit_has_not_overflowed() -> None:
    counter = counter_of(2, "a", "b", "a")

    assert not counter.overflowed
    assert counter.top(5) == [("a", 2), ("b", 1)]


def test_a_counter_counts_what_it_leaves_out() -> None:
    counter = counter_of(2, "a", "b", "c", "c", "a")

    assert counter.overflowed
    assert (counter.total, counter.others, counter.count("c"), counter.distinct) == (5, 2, 0, 2)


@given(st.lists(st.text(max_size=2), max_size=60), st.integers(1, 10))
def test_the_sum_of_a_counter_is_whole_whatever_is_left_out(keys: list[str], limit: int) -> None:
    counter = counter_of(limit, *keys)

    assert counter.total == len(keys)
    assert counter.overflowed == (len(set(keys)) > limit)


def test_a_list_keeps_the_first_and_counts_all() -> None:
    items = BoundedList[int](3)
    for number in range(5):
        items.append(number)

    assert list(items) == [0, 1, 2]
    assert (items.total, items.left_out, items.overflowed) == (5, 2, True)


def test_a_dict_goes_on_replacing_the_values_of_known_keys() -> None:
    items = BoundedDict[str, int](1)

    assert [items.set("a", 1), items.set("b", 2), items.set("a", 3)] == [True, False, True]
    assert dict(items.items()) == {"a": 3}
    assert items.overflowed


def test_a_check_that_would_be_ok_is_unknown_when_its_counter_overflowed() -> None:
    counter = counter_of(1, "192.0.2.1", "192.0.2.2", "192.0.2.2")

    check = Criterion("failures", counter.top(1)[0][1], at_most=100, limited_by=(counter,)).evaluate()

    assert check.status is CheckStatus.UNKNOWN
    assert "only the first 1 were counted" in str(check.observed)


def test_a_check_that_only_warns_is_unknown_when_its_counter_overflowed() -> None:
    counter = counter_of(1, "a", "b")

    criterion = Criterion("failures", 30, at_most=100, warn_above=20, limited_by=(counter,))

    assert criterion.status is CheckStatus.UNKNOWN


def test_a_check_that_fails_still_fails_when_its_counter_overflowed() -> None:
    counter = counter_of(1, "a", "b")

    criterion = Criterion("failures", 101, at_most=100, limited_by=(counter,))

    assert criterion.status is CheckStatus.FAIL


def test_a_check_is_not_affected_by_a_counter_with_room() -> None:
    criterion = Criterion("failures", 1, at_most=100, limited_by=(counter_of(2, "a", "b"),))

    assert criterion.status is CheckStatus.OK


def test_lines_that_are_not_understood_make_a_check_unknown_with_samples() -> None:
    tally = ReadTally(understood=90)
    for number in range(10):
        tally.add_not_understood(f"line {number} \x1b[31mred\n")

    check = tally.criterion("lines understood", "lines").evaluate()

    assert check.status is CheckStatus.UNKNOWN
    assert "10 lines not understood (10 %)" in str(check.observed)
    assert "line 0" in str(check.observed)
    assert "\x1b" not in str(check.observed)


def test_what_is_out_of_scope_does_not_hide_what_is_not_understood() -> None:
    tally = ReadTally(out_of_scope=1_000_000)
    tally.add_not_understood("x" * 1000)

    assert tally.criterion("lines understood", "lines").status is CheckStatus.UNKNOWN
    assert all(len(sample) <= SAMPLE_LENGTH + 1 for sample in tally.samples)


def test_nothing_to_read_is_all_understood() -> None:
    assert ReadTally().criterion("lines understood", "lines").status is CheckStatus.OK
