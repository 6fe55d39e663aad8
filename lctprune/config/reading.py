"""Read configuration dataclasses from JSON, and say which field of which file is wrong."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lctprune.config.ramp import Ramp
from lctprune.errors import ConfigError, RunError

_REMEDY = "restore the file from a copy, or train again"
# what JSON gives for a field's type; types that are not listed are left to the dataclass
_FROM_JSON: dict[Any, tuple[type, ...]] = {
    str: (str,),
    bool: (bool,),
    int: (int,),
    float: (int, float),
    type(None): (type(None),),
    tuple: (list,),
    dict: (dict,),
    Mapping: (dict,),
    Ramp: (),  # a file has its text
}
_T = TypeVar("_T")


def from_json(kind: type[_T], values: object, name: str, *, file: Path) -> _T:
    """Make a dataclass from a JSON object.

    Values that the dataclass has no field for are ignored (see `unknown_fields`), fields without a value get their
    default.

    Args:
        kind: the dataclass.
        values: the JSON object.
        name: where the object stands in the file, such as "training".
        file: the file, for messages.

    Raises:
        RunError: a field without a default is missing, or a value cannot be used.
    """
    if not isinstance(values, Mapping):
        raise RunError(f"{file}: {name} is {values!r}; it must be a JSON object; {_REMEDY}")
    hints = typing.get_type_hints(kind)
    fields: dict[str, Any] = {}
    for field in _fields(kind):
        where = f"{name}.{field.name}"
        if field.name in values:
            fields[field.name] = _value(hints[field.name], values[field.name], where, file=file)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RunError(f"{file}: {where} is missing; {_REMEDY}")
    try:
        return kind(**fields)
    except ConfigError as error:
        raise RunError(f"{file}: {name} does not fit this version of lctprune ({error}); train it again") from error


def unknown_fields(kind: type, values: Mapping[str, Any], name: str) -> list[str]:
    """Name the values that a dataclass has no field for, such as "training.colour"; of records in it, too."""
    hints, known = typing.get_type_hints(kind), {field.name for field in _fields(kind)}
    unknown = [f"{name}.{key}" for key in values if key not in known]
    for key in known & values.keys():
        if (record := _record_in(hints[key])) is not None and isinstance(values[key], Mapping):
            unknown += unknown_fields(record, values[key], f"{name}.{key}")
    return unknown


def _value(hint: Any, value: object, name: str, *, file: Path) -> Any:
    record = _record_in(hint)
    if record is not None and value is not None:
        return from_json(record, value, name, file=file)
    kinds = [typing.get_origin(each) or each for each in _choices(hint)]
    allowed = tuple(kind for each in kinds for kind in _FROM_JSON.get(each, (object,)))
    if not isinstance(value, allowed) or (isinstance(value, bool) and not {bool, object} & set(allowed)):
        expected = " or ".join(kind.__name__ for kind in dict.fromkeys(allowed)).replace("NoneType", "null")
        raise RunError(f"{file}: {name} is {value!r}; it must be {expected}; {_REMEDY}")
    return tuple(value) if isinstance(value, list) else value


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _record_in(hint: Any) -> type | None:
    """Return the dataclass that a field holds as a JSON object, if it does."""
    choices = _choices(hint)
    if str in choices or float in choices:  # written as text or a number
        return None
    return next((each for each in choices if dataclasses.is_dataclass(each) and isinstance(each, type)), None)


def _fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)
