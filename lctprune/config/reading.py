"""Read JSON of a run into dataclasses, strictly, and say which field of which file is wrong.

The dataclasses are the schema: pydantic checks types, lengths and ranges, and refuses numbers that are not finite.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from lctprune.errors import LctpruneError, RunError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

FORMAT = 1  # version of the files of a run; files without a version are of the time before it
RESTORE = "restore the file from a copy, or train again"
MAX_VALUE_LENGTH = 60  # characters of a wrong value in a message
_T = TypeVar("_T")


def parse_object(content: bytes, file: Path, *, remedy: str = RESTORE) -> dict[str, Any]:
    """Parse a JSON object, in UTF-8, of a format that this version knows.

    Args:
        content: content of the file.
        file: the file, for messages.
        remedy: what to do, for messages.

    Raises:
        RunError: it is no strict JSON, no object, or of a later format.
    """
    try:
        document = json.loads(content.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # also of bytes that are not UTF-8
        what = "empty" if not content.strip() else f"not JSON in UTF-8 ({error})"
        raise RunError(f"{file} is {what}; {remedy}") from error
    if not isinstance(document, dict):
        raise RunError(f"{file} is {_short(document)}; it must be a JSON object; {remedy}")
    version = document.get("format_version", FORMAT)
    if type(version) is not int or not 0 < version <= FORMAT:
        raise RunError(
            f"{file}: format_version is {_short(version)}; this version of lctprune reads formats up to {FORMAT}"
        )
    return document


def from_json(kind: type[_T], values: object, name: str, *, file: Path, remedy: str = RESTORE) -> _T:
    """Make a dataclass, or another type, from parsed JSON.

    Values that a dataclass has no field for are ignored (see `unknown_fields`), fields without a value get their
    default. An integer is a number, but no other type is taken for another.

    Args:
        kind: the dataclass or type.
        values: the value as `json.loads` gives it.
        name: where the value stands in the file, such as "training"; "" for the whole file.
        file: the file, for messages.
        remedy: what to do, for messages.

    Raises:
        RunError: a field without a default is missing, or a value cannot be used.
    """
    from pydantic import ValidationError  # takes a while to import

    try:
        (value,) = _adapter(typing.cast(Hashable, kind)).validate_json(json.dumps([values]))
    except ValidationError as error:
        _refuse_field(error, values, name, file, remedy)
    return typing.cast(_T, value)


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    # in a tuple, as dataclasses take a configuration from what they stand in only
    return TypeAdapter(tuple[kind], config=ConfigDict(strict=True, allow_inf_nan=False))


def _refuse_field(error: ValidationError, values: object, name: str, file: Path, remedy: str) -> NoReturn:
    first = error.errors()[0]
    where, value = _located(first["loc"][1:], values, name)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, LctpruneError | ValueError | TypeError):
        within = f"{file}: {where} does not fit" if where else f"{file} does not fit"
        raise RunError(f"{within} this version of lctprune ({cause}); train it again") from error
    if first["type"] == "missing":
        raise RunError(f"{file}: {where} is missing; {remedy}") from error
    wanted = [each["msg"] for each in error.errors() if _located(each["loc"][1:], values, name)[0] == where]
    must = " or ".join(dict.fromkeys(map(_requirement, wanted[:2])))
    raise RunError(f"{file}: {where} is {_short(value)}; it must be {must}; {remedy}") from error


def _requirement(message: str) -> str:
    return re.sub(
        r"\ba valid (?=([aeio])?)", lambda match: "an " if match[1] else "a ", message.removeprefix("Input should be ")
    )


def _located(path: Sequence[int | str], values: object, name: str) -> tuple[str, object]:
    """Return the name of a place in the file, and what stands there; the names of union's choices are left out."""
    value: Any = values
    for index, key in enumerate(path):
        if isinstance(value, Mapping) and key in value:
            name, value = f"{name}.{key}" if name else str(key), value[key]
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            name, value = f"{name}[{key}]", value[key]
        elif isinstance(value, Mapping) and isinstance(key, str) and index == len(path) - 1 and not key[:1].isupper():
            name = f"{name}.{key}" if name else key  # it is missing
    return name, value


def _short(value: object) -> str:
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 4]} ..."


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def unknown_fields(kind: type, values: Mapping[str, Any], name: str) -> list[str]:
    """Name the values that a dataclass has no field for, such as "training.colour"; of records in it, too."""
    hints, known = typing.get_type_hints(kind), {field.name for field in _fields(kind)}
    unknown = [f"{name}.{key}" for key in values if key not in known]
    for key in known & values.keys():
        if (record := _record_in(hints[key])) is not None and isinstance(values[key], Mapping):
            unknown += unknown_fields(record, values[key], f"{name}.{key}")
    return unknown


def _record_in(hint: Any) -> type | None:
    """Return the dataclass that a field holds as a JSON object, if it does."""
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((each for each in choices if dataclasses.is_dataclass(each) and isinstance(each, type)), None)


def _fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)
