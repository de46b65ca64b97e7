"""Single values of a JSON, in the spellings people use."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from score.errors import DataError
from score.masks import Box

Id = int | str
Record = dict[str, Any]


def is_number(value: Any) -> bool:
    """Whether a value of a JSON is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether a value of a JSON is a whole number, as 3 or 3.0, of a size that a float can hold exactly."""
    return is_number(value) and abs(value) <= 2**53 and value == int(value)


def read_id(value: Any) -> Id | None:
    """An id as a whole number where it can be read as one; None for what is no id."""
    if is_whole(value):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,17}", value):
        return int(value)
    return value if isinstance(value, str) and value else None


def read_id_apart(value: Any) -> Id | None:
    """An id where text and numbers are told apart."""
    return value if isinstance(value, str) and value else read_id(value)


def id_reader(given: Sequence[Any]) -> Callable[[Any], Id | None]:
    """How ids of a kind are read: ``"1"``, 1 and 1.0 are one, unless both text and number occur."""
    if len({read_id(value) for value in given}) < len({(type(value) is str, str(value)) for value in given}):
        return read_id_apart
    return read_id


def read_sides(record: Record) -> tuple[int, int] | None:
    """Width and height of an image, None if they are none."""
    width, height = read_id(record["width"]), read_id(record["height"])
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    return None


def short(value: Any) -> str:
    """The beginning of a value, as the JSON has it."""
    return json.dumps(value, ensure_ascii=False)[:40]


def read_crowd(value: Any) -> int:
    """``iscrowd`` as 0 or 1.

    Raises:
        DataError: ``what; what to do``.
    """
    if value in (None, 0, "0", ""):
        return 0
    if value in (1, "1"):
        return 1
    raise DataError(f"has the iscrowd {short(value)}; use 0 or 1")


def read_area(value: Any) -> float | None:
    """A stated area, None if there is none.

    Raises:
        DataError: ``what; what to do``.
    """
    if value is None or (is_number(value) and 0 <= value <= 2**53):
        return value
    raise DataError(f"has the area {short(value)}; correct it, or leave it out")


def overlap(first: Sequence[float], second: Box) -> float:
    """IoU of two boxes x, y, width, height; 0 where a number is none or a side is not positive."""
    shared = 1.0
    for axis in (0, 1):
        end = min(first[axis] + first[axis + 2], second[axis] + second[axis + 2])
        shared *= max(0.0, end - max(first[axis], second[axis]))
    total = first[2] * first[3] + second[2] * second[3] - shared
    return shared / total if shared > 0 and first[2] > 0 and first[3] > 0 else 0.0
