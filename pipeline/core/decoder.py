"""Decode values of JSON into frozen dataclasses, field by field, and encode them back.

A dataclass is the one declaration of a document: its fields are the keys, their types are the rules. Every key is
required, no other is allowed, and nothing is converted: `true` is no number and `"1"` is none either. A format number
is a field of type `Literal[1]`. Text that must have a form is `Annotated[str, re.compile(...)]`, matched as a whole. A
class that has another shape in JSON than its fields brings `to_json`, and `from_json` where it is read back.

Written here, and not pydantic, because verbs that read no line file need not import that for a record or two:
importing it takes as long as everything else that `./inv status` imports. Knows no files.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
_Decoder = Callable[[Any], Any]
_FORMAT = {"format", "version"}  # the keys of a format number
_SHOWN = 60  # characters of a value that an error shows


class Mismatch(ValueError):
    """A value that is not what its type says: `at` is the way to the value, such as `packages.kernel.size`."""

    def __init__(self, expected: str, got: str, at: tuple[str, ...] = ()) -> None:
        self.expected, self.got, self.at = expected, got, at
        super().__init__(f"{self.wanted}, got {got}")

    @property
    def wanted(self) -> str:
        """Where something else was expected, and what."""
        return f"{'.'.join(self.at)}: expected {self.expected}" if self.at else f"expected {self.expected}"

    def below(self, name: str) -> Mismatch:
        """Return the same mismatch, as the value that holds it under `name` sees it."""
        return Mismatch(self.expected, self.got, (name, *self.at))


def decode(kind: type[T], value: object) -> T:
    """Decode a value that `json.loads` returned. Raises `Mismatch` for anything but a `kind`."""
    return cast(T, _decoder(cast(Any, kind))(value))


def encode(value: Any) -> Any:
    """Encode a dataclass, and what is in one, as `json.dumps` takes it and `decode` expects it."""
    if hasattr(value, "to_json"):
        return encode(value.to_json())
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {encode(key): encode(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(map(encode, value))
    if isinstance(value, tuple | list):
        return list(map(encode, value))
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


@cache
def _decoder(kind: Any) -> _Decoder:
    """Return the decoder of a type. Raises `TypeError` for one that no document may have."""
    if kind is Path:
        return lambda value: Path(_plain((str,), "a path", value))
    if kind in _PLAIN:
        return partial(_plain, *_PLAIN[kind])
    if hasattr(kind, "from_json"):
        return partial(_own, kind.from_json)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return partial(_member, kind)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        return partial(_object, kind, {field.name: _decoder(hints[field.name]) for field in fields(kind)})
    return _generic(kind, get_origin(kind), get_args(kind))


def _generic(kind: Any, origin: Any, parameters: tuple[Any, ...]) -> _Decoder:
    if kind in (Any, object):
        return lambda value: value
    if origin is Annotated:
        return partial(_matched, _decoder(parameters[0]), parameters[1])
    if origin is Literal:
        return partial(_literal, parameters)
    if origin in (Union, types.UnionType) and len(parameters) == 2 and parameters[1] is type(None):
        return partial(_optional, _decoder(parameters[0]))
    if origin is tuple and len(parameters) == 2 and parameters[1] is ...:
        return partial(_many, tuple, _decoder(parameters[0]))
    if origin in (list, frozenset) and parameters:
        return partial(_many, origin, _decoder(parameters[0]))
    if origin in (dict, Mapping) and (parameters[0] is str or get_origin(parameters[0]) is Annotated):
        return partial(_table, parameters[0], _decoder(parameters[1]))
    raise TypeError(f"no document may hold {kind}")


_PLAIN: Mapping[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
    bool: ((bool,), "true or false"),
}


def _plain(kinds: tuple[type, ...], named: str, value: Any) -> Any:
    if type(value) not in kinds or (isinstance(value, float) and not math.isfinite(value)):
        raise Mismatch(named, _shown(value))
    return value


def _own(read: _Decoder, value: Any) -> Any:
    try:
        return read(value)
    except Mismatch:
        raise
    except ValueError as error:
        raise Mismatch(str(error), _shown(value)) from None


def _member(kind: type[Enum], value: Any) -> Any:
    for member in kind:
        if type(value) is type(member.value) and value == member.value:
            return member
    raise Mismatch(f"one of {', '.join(str(member.value) for member in kind)}", _shown(value))


def _matched(decoder: _Decoder, pattern: re.Pattern[str], value: Any) -> Any:
    found = decoder(value)
    if not pattern.fullmatch(found):
        raise Mismatch(f"text such as {pattern.pattern}", _shown(value))
    return found


def _literal(allowed: tuple[Any, ...], value: Any) -> Any:
    if not any(type(value) is type(each) and value == each for each in allowed):
        raise Mismatch(" or ".join(map(str, allowed)), _shown(value))
    return value


def _optional(decoder: _Decoder, value: Any) -> Any:
    return None if value is None else decoder(value)


def _many(container: Callable[[Any], Any], decoder: _Decoder, value: Any) -> Any:
    if not isinstance(value, list):
        raise Mismatch("a list", _shown(value))
    return container([_inside(decoder, str(number), item) for number, item in enumerate(value)])


def _table(key: Any, decoder: _Decoder, value: Any) -> Any:
    if not isinstance(value, dict):
        raise Mismatch("an object", _shown(value))
    if key is not str:
        pattern: re.Pattern[str] = get_args(key)[1]
        if wrong := [name for name in value if not pattern.fullmatch(name)]:
            raise Mismatch(f"keys such as {pattern.pattern}", _shown(wrong[0]))
    return {key: _inside(decoder, key, item) for key, item in value.items()}


def _object(kind: type, decoders: Mapping[str, _Decoder], value: Any) -> Any:
    if not isinstance(value, dict):
        raise Mismatch("an object", _shown(value))
    for name in _FORMAT & decoders.keys() & value.keys():  # first: another format may have any other keys
        _inside(decoders[name], name, value[name])
    if missing := [name for name in decoders if name not in value]:
        raise Mismatch(f"the keys {', '.join(decoders)}", f"none of {', '.join(missing)}")
    if added := [name for name in value if name not in decoders]:
        raise Mismatch(f"the keys {', '.join(decoders)} only", f"{', '.join(map(ascii, added))} too")
    found = {name: _inside(decoder, name, value[name]) for name, decoder in decoders.items()}
    return _own(lambda values: kind(**values), found)  # a `__post_init__` may refuse what the types cannot


def _inside(decoder: _Decoder, name: str, value: Any) -> Any:
    try:
        return decoder(value)
    except Mismatch as error:
        raise error.below(name) from None


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
