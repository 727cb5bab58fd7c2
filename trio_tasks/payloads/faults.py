"""Why a value or a text is refused, and where, in words that hold no data.

`find_fault` looks at a value that is to be sent, `explain` at what a decoder has raised.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from types import NoneType
from typing import Any, Final, NamedTuple, Protocol, TypeGuard, cast

import msgspec

from trio_tasks.payloads.json_form import JsonForm, encode_json, is_model, json_form, name_of

__all__ = [
    "MAX_DEPTH",
    "UNKNOWN",
    "Fault",
    "equal",
    "explain",
    "find_fault",
    "is_too_deep",
    "step_to",
    "too_deep",
]

MAX_DEPTH: Final = 128
"""Levels of nesting that may be emitted.

Below what Python's recursion limit leaves to a worker with a deep stack, so that what was accepted
at the emit can be decoded everywhere.
"""

too_deep: Final = f"nested deeper than {MAX_DEPTH} levels"


class Fault(NamedTuple):
    """A place, relative to the value that was looked at, and what is wrong there."""

    path: str
    reason: str


class _Counterpart(Enum):
    """Stands for what came back where that is not known."""

    UNKNOWN = "nothing could be read back: look for what is wrong with the value as such"
    UNTYPED = "no type speaks for this place: sets and keys that are not text do not belong here"


UNKNOWN: Final = _Counterpart.UNKNOWN
_UNTYPED: Final = _Counterpart.UNTYPED

_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def is_too_deep(raw: bytes) -> bool:
    """Tell whether valid JSON is nested deeper than `MAX_DEPTH`."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    # With methods of `bytes` only: a loop over the characters would cost more than the decoding.
    without_escapes = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(without_escapes.split(b'"')[::2])
    brackets = outside_strings.translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        # Each pass peels at least the innermost level off.
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if not brackets:
            return False
    return True


def equal(one: object, other: object) -> bool:
    """Compare; an `__eq__` that raises has not said yes."""
    try:
        return bool(one == other)
    except Exception:
        return False


def find_fault(value: object, back: object) -> Fault | None:
    """Find the first thing in `value` that JSON refuses, or changes on the way to `back`.

    Args:
        value: what is to be sent.
        back: what was read from its JSON, or `UNKNOWN` if writing or reading it has failed.
    """
    try:
        fault = _fault(value, back, 1)
    except RecursionError:
        return Fault("", too_deep)
    except Exception as error:  # from a property or a `__len__` of the user's
        return Fault("", f"{name_of(type(error))} when it was encoded")
    if fault is None or fault.reason.startswith(too_deep):
        return fault and Fault("", fault.reason)  # a path of 128 steps says nothing
    return Fault(fault.path if len(fault.path) <= 256 else f"{fault.path[:256]}…", fault.reason)


_SCALARS: Final = (NoneType, str, int, float, date, time, timedelta, Decimal, Enum)


def _fault(value: object, back: object, depth: int) -> Fault | None:
    if isinstance(value, _SCALARS):
        return _scalar_fault(cast(object, value))
    if depth > MAX_DEPTH:
        return Fault("", f"{too_deep}, or contains itself")
    members: Iterable[tuple[str, object, object]]  # step of the path, member, its counterpart
    if _is_dict(value):
        for key in value:
            if reason := _key_reason(key, back):
                return Fault("", reason)
        members = _pairs(((step_to(key), key, item) for key, item in value.items()), back)
    elif _is_sequence(value):
        members = _pairs(((f"[{i}]", i, item) for i, item in enumerate(value)), back)
    elif _is_set(value):
        if back is not UNKNOWN and not _is_set(back):
            return Fault("", "a set is not JSON, unless the type of this place is a set")
        members = (("[...]", item, UNKNOWN) for item in value)
    elif _has_fields(value):
        if not _has_fields(back) and (back is not UNKNOWN or is_model(value)):
            # No type has made an object of it, so it is held against what its own class reads back.
            back, survived = _through_own_class(value)
            if survived:
                return None
        fields = _fields(value)
        members = _pairs(((f".{name}", name, item) for name, item in fields.items()), back)
    elif equal(back, value) or _is_text_in_json(value, back):
        # Equal: a type that only a Pydantic model knows, and that the model has read back.
        return None
    else:
        return Fault("", f"{name_of(type(value))} is not JSON")
    for step, member, counterpart in members:
        if fault := _fault(member, counterpart, depth + 1):
            return Fault(step + fault.path, fault.reason)
    if back is UNKNOWN and is_model(value):
        return Fault("", f"{name_of(type(value))} cannot write this value so that it reads it back")
    return None


def _pairs(
    members: Iterable[tuple[str, object, object]], back: object
) -> Iterator[tuple[str, object, object]]:
    """Turn (step, key, member) into (step, member, counterpart of the member in `back`)."""
    default = UNKNOWN if back is UNKNOWN or _is_set(back) else _UNTYPED
    backs: Mapping[object, object]
    if _is_dict(back):
        backs = back
    elif _is_sequence(back):
        backs = dict[object, object](enumerate(back))
    else:
        backs = cast("Mapping[object, object]", _fields(back) if _has_fields(back) else {})
    for step, key, member in members:
        yield step, member, backs.get(key, default)


def _scalar_fault(value: object) -> Fault | None:
    reason: str | None = None
    match value:
        case Enum():
            return _fault(cast(object, value.value), UNKNOWN, 1)
        case float() if not math.isfinite(value):
            reason = "a float that is NaN or infinite is not JSON"
        case Decimal() if not value.is_finite():
            reason = "a Decimal that is NaN or infinite"
        case datetime() | time() if (value.utcoffset() or timedelta(0)) % timedelta(minutes=1):
            reason = f"a {name_of(type(value))} whose offset from UTC has seconds"
        case _:
            reason = _refusal(value)
    return None if reason is None else Fault("", reason)


def _refusal(value: object) -> str | None:
    """Return why the encoder refuses a value without members."""
    if type(value) is str and value.isascii():  # nearly all keys: this is four times as fast
        return None
    try:
        encode_json(value)
    except UnicodeEncodeError:
        return "text with a lone surrogate"
    except ValueError:
        return "an integer of too many digits, at most 4300 are allowed"
    except Exception:
        return f"{name_of(type(value))} is not JSON"
    return None


def _key_reason(key: object, back: object) -> str | None:
    """Refuse a key that is not text, unless what came back has this very key."""
    if isinstance(key, str):
        reason = _refusal(key)
        return reason and f"a key is {reason}"
    if _refusal({key: None}) is None and (back is UNKNOWN or (_is_dict(back) and key in back)):
        return None
    return f"a key is {name_of(type(key))}, not text, and no type of this place says so"


def _is_text_in_json(value: object, back: object) -> bool:
    """Tell whether the encoder itself writes `value` as text: `bytes`, `UUID`.

    (Where nothing was read back, all that it writes at all is fine.)
    """
    try:
        return encode_json(value).startswith(b'"') or back is UNKNOWN
    except Exception:
        return False


def _through_own_class(value: object) -> tuple[object, bool]:
    """Return what the class of `value` reads back, if it can, and whether that proves it whole.

    A class need not be readable to be written, unless it is a model: that has validated itself.
    """
    try:
        form = _form_of_class(type(value))
        raw = form.encode(value)
        back = form.decode(raw)
    except Exception:
        return UNKNOWN if is_model(value) else _UNTYPED, False
    return back, equal(back, value) and (form.equal_is_same or b"null" not in raw)


@lru_cache(maxsize=256)
def _form_of_class(cls: type) -> JsonForm:
    return json_form(cls)


def _has_fields(value: object) -> bool:
    """Tell a Struct, an instance of a dataclass or of a Pydantic model from everything else."""
    cls = type(value)  # the fields of a *class* are not data
    return issubclass(cls, msgspec.Struct) or dataclasses.is_dataclass(cls) or is_model(value)


def _fields(value: object) -> dict[str, object]:
    names: Iterable[str]
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    elif is_model(value):
        own = cast("Mapping[str, object]", getattr(type(value), "model_fields"))  # noqa: B009
        names = [*own, *(value.model_extra or ())]
    else:
        names = [field.name for field in dataclasses.fields(cast(Any, value))]
    return {name: getattr(value, name, None) for name in names}


def step_to(key: object) -> str:
    """Return the step of a path to a key, which is shown only if it looks like a name."""
    return f".{key}" if isinstance(key, str) and len(key) <= 64 and key.isidentifier() else "[...]"


# `isinstance` that leaves the types of the elements known.


def _is_dict(value: object) -> TypeGuard[dict[object, object]]:
    return isinstance(value, dict)


def _is_sequence(value: object) -> TypeGuard[list[object] | tuple[object, ...]]:
    return isinstance(value, list | tuple)


def _is_set(value: object) -> TypeGuard[set[object] | frozenset[object]]:
    return isinstance(value, set | frozenset)


# ---- What a decoder has raised ----


class _PydanticError(Protocol):
    """What is used of `pydantic.ValidationError`."""

    def errors(
        self, *, include_url: bool, include_context: bool, include_input: bool
    ) -> list[dict[str, object]]: ...


# Where msgspec puts the place, and its only messages that quote the data.
_PLACE: Final = re.compile(r" - at (?P<key>`key` in )?`\$(?P<path>.*)`$")
_QUOTING: Final = re.compile(
    r"(Invalid (?:enum )?value|Object contains unknown field).*", re.DOTALL
)


def explain(error: Exception) -> Fault:
    """Turn what a decoder raised into a place and a reason that hold none of the data."""
    if isinstance(error, RecursionError):
        return Fault("", too_deep)
    if isinstance(error, UnicodeDecodeError):
        return Fault("", "text that is not UTF-8")
    if not isinstance(error, msgspec.MsgspecError):  # from a validator of the user's
        return Fault("", f"refused with {name_of(type(error))}")
    text = str(error)
    path = ""
    if place := _PLACE.search(text):
        text = text[: place.start()]
        path = place["path"] + ("[key]" if place["key"] else "")
    match error.__cause__:
        case None:
            return Fault(path, _QUOTING.sub(r"\1", text).replace("Expected ", "expected ", 1))
        case cause if hasattr(cause, "errors"):
            inner = _explain_pydantic(cast(_PydanticError, cause))
            return Fault(path + inner.path, inner.reason)
        case cause:
            return Fault(path, f"refused with {name_of(type(cause))}")


def _explain_pydantic(error: _PydanticError) -> Fault:
    """Say the same of a Pydantic error: its first place, and its code, for its texts may quote."""
    first, *rest = error.errors(include_url=False, include_context=False, include_input=False)
    steps = cast("tuple[object, ...]", first["loc"])
    path = "".join(f"[{step}]" if isinstance(step, int) else step_to(step) for step in steps)
    more = f", and {len(rest)} more" if rest else ""
    return Fault(path, f"Pydantic says {first['type']}{more}")
