# SPDX-License-Identifier: Apache-2.0
"""The messages of `protocol` as lines of JSON, and back, with every field checked.

A message is an object with the class's name in lower case under `"type"`; so is what a `Result` carries.
Standard library only.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from DIANetLib.errors import WorkerError
from DIANetLib.worker.protocol import RECORD_SEPARATOR, Event, Payload, Request

__all__ = ["decode_event", "decode_request", "encode"]


def encode(message: Request | Event) -> str:
    """The message as one line of JSON, without the line's end.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps(_plain(message), ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def decode_request(line: str) -> Request:
    """Read what `encode` made of a request.

    Raises:
        WorkerError: The line is no request of this protocol.
    """
    message: Request = _decode(line, _REQUESTS, "request")
    return message


def decode_event(line: str) -> Event:
    """Read what `encode` made of an event; a leading `RECORD_SEPARATOR` is ignored.

    Raises:
        WorkerError: The line is no event of this protocol.
    """
    message: Event = _decode(line.lstrip(RECORD_SEPARATOR), _EVENTS, "event")
    return message


def _name(cls: type) -> str:
    return cls.__name__.lower()


_REQUESTS = {_name(cls): cls for cls in get_args(Request)}
_EVENTS = {_name(cls): cls for cls in get_args(Event)}
_TAGGED = frozenset(get_args(Request) + get_args(Event) + get_args(Payload))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        tag = {"type": _name(type(value))} if type(value) in _TAGGED else {}
        # Not asdict: it would copy, and lose the tags of what lies inside.
        return tag | {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _decode(line: str, known: Mapping[str, type], what: str) -> Any:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WorkerError(f"A line is not a JSON {what}: {line[:80]!r}.") from error
    tag = data.get("type") if isinstance(data, dict) else None
    cls = known.get(tag) if isinstance(tag, str) else None
    if cls is None:
        raise WorkerError(f"A line is no {what} of this protocol: {line[:80]!r}.")
    try:
        return _build(cls, data)
    except _MismatchError as error:
        raise WorkerError(f"The {what} {tag!r} cannot be read: {error}.") from error


class _MismatchError(Exception):
    """A value is not of the type that a field has."""


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    # Evaluating the annotations anew would take longer than all else.
    return get_type_hints(cls)


def _build(cls: type, data: Any) -> Any:
    if not isinstance(data, dict):
        raise _MismatchError(f"expected an object for {cls.__name__}, got {type(data).__name__}")
    hints = _hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields) - {"type"})
    if unknown:
        raise _MismatchError(f"{cls.__name__} has no field {unknown[0]!r}")
    values = {}
    for name, spec in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], name)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise _MismatchError(f"{cls.__name__} lacks {name!r}")
    return cls(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise _MismatchError(f"{where} is {value!r}, expected one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        return _items(arguments, value, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _MismatchError(f"{where} is {value!r}, expected an object")
        return {key: _value(arguments[1], item, f"{where}[{key}]") for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value)
    return _number_or_text(hint, value, where)


def _one_of(alternatives: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in alternatives:
        return None
    rest = [hint for hint in alternatives if hint is not type(None)]
    if len(rest) == 1:
        return _value(rest[0], value, where)
    tag = value.get("type") if isinstance(value, dict) else None
    for hint in rest:
        if _name(hint) == tag:
            return _build(hint, value)
    raise _MismatchError(f"{where} is of no known type ({tag!r})")


def _items(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _MismatchError(f"{where} is {value!r}, expected a list")
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise _MismatchError(f"{where} has {len(value)} entries, expected {len(hints)}")
    return tuple(
        _value(hint, item, f"{where}[{n}]") for n, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _number_or_text(hint: Any, value: Any, where: str) -> Any:
    if hint is float and type(value) in (int, float) and _is_finite(value):
        return float(value)
    if hint in (int, bool, str) and type(value) is hint:
        return value
    raise _MismatchError(f"{where} is {value!r}, expected {getattr(hint, '__name__', hint)}")


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the floats
        return False
