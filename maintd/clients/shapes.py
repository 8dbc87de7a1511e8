"""Foreign JSON read by declared shapes: what a server answers is checked before anything is taken from it.

A shape is lenient where servers with the same API differ: further fields are ignored, and null means the
default. An answer of another shape is a TargetError with the cause `malformed`; an item of a list that has another
shape is reported as not understood, and does not hide the other items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from maintd.errors import TargetError

T = TypeVar("T")
M = TypeVar("M", bound="Shape")
_SAMPLE = 200  # characters of an error
_MOST_NOT_UNDERSTOOD = 1000  # items of a list; each takes 20 µs and a text


class Shape(BaseModel):
    """The fields that are needed of a JSON object. A field that is null has its default."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


@dataclass(frozen=True)
class Listing(Generic[T]):
    """The items of a list, and what was not understood of it: one short text for each such item."""

    items: tuple[T, ...] = ()
    not_understood: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def read(shape: type[T] | TypeAdapter[T], value: Any, where: str) -> T:
    """The value as the shape. Raises TargetError(cause="malformed"), which names `where` and the first wrong field."""
    adapter = shape if isinstance(shape, TypeAdapter) else TypeAdapter(shape)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise TargetError(f"{where}: {first_problem(error)}", cause="malformed") from None


def read_each(shape: type[M], values: Any, where: str) -> Listing[M]:
    """Each item of a JSON list by itself; null is an empty list.

    Raises TargetError when it is not a list, or when so many items have another shape that it is a list of others.
    """
    if values is None:
        return Listing()
    if not isinstance(values, list):
        raise TargetError(f"{where}: a {type(values).__name__} instead of a list", cause="malformed")
    items, not_understood = [], []
    for value in values:
        try:
            items.append(shape.model_validate(value))
        except ValidationError as error:
            not_understood.append(first_problem(error))
            if len(not_understood) >= _MOST_NOT_UNDERSTOOD:
                text = f"{where}: {len(not_understood)} items are not understood, the first: {not_understood[0]}"
                raise TargetError(text, cause="malformed") from None
    return Listing(tuple(items), tuple(not_understood))


def first_problem(error: ValidationError) -> str:
    """The first problem in one line: `data.groups.0.name: Field required`."""
    problem = error.errors(include_url=False, include_context=False)[0]
    path = ".".join(str(part) for part in problem["loc"])
    seen = repr(problem["input"])[:60]
    return f"{path}: {problem['msg']}, not {seen}".removeprefix(": ")[:_SAMPLE]
