"""Members that the sender gave and the handler's type does not have.

Who reads ignores them (`PayloadCodec.decode`): in a rolling deploy an older worker gets the jobs of
newer emitters, and dead-lettering those would be worse than ignoring a field that it does not know.
Who emits, knowing the type, is told: there a member too many is a misspelt or forgotten name.

Only dicts are looked at. An object of another class than the type's own may have more fields on
purpose, as that of a subclass has; and what a Pydantic model does with them is its own `extra=`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from itertools import count
from typing import Any, Final, cast

import msgspec

from trio_tasks.options import closest
from trio_tasks.payloads.faults import Fault, step_to
from trio_tasks.payloads.json_form import name_of

__all__ = ["find_extra", "misspelt"]


def find_extra(value: object, back: object) -> Fault | None:
    """Find the first member of a dict in `value` that has no place in what was read back.

    Args:
        value: what is to be sent, which fits.
        back: what was read from its JSON.
    """
    pairs: Iterable[tuple[object, object, object]]  # key or index, member, its counterpart
    if isinstance(value, dict):
        members = cast("dict[object, object]", value)
        if isinstance(back, dict):
            read = cast("dict[object, object]", back)
            # Only a TypedDict drops any. (Equal keys may be written differently, as "1" and 1.)
            if len(read) < len(members):
                extra = next(key for key in members if key not in read)
                return Fault(step_to(extra), "the type of this place has no such member")
            pairs = ((key, item, read.get(key)) for key, item in members.items())
        elif names := _wire_names(cast("type[Any]", type(back))):
            for key in members:
                if key not in names:
                    hint = closest(key, list(names))
                    return Fault(step_to(key), f"{name_of(type(back))} has no such member{hint}")
            pairs = (
                (key, item, getattr(back, names[cast(str, key)], None))
                for key, item in members.items()
            )
        else:
            return None
    elif isinstance(value, list | tuple) and isinstance(back, list | tuple):
        items, others = cast("Iterable[object]", value), cast("Iterable[object]", back)
        pairs = zip(count(), items, others)
    else:
        return None
    for step, item, counterpart in pairs:
        if isinstance(item, dict | list | tuple) and (
            fault := find_extra(cast(object, item), counterpart)
        ):
            shown = step_to(step) if isinstance(value, dict) else f"[{step}]"
            return Fault(shown + fault.path, fault.reason)
    return None


def misspelt(value: object, tp: Any, error: Exception) -> str:
    """The end of a message: the member of a dict that was probably meant by one that is missing.

    Args:
        value: what is to be sent, and does not fit.
        tp: the type that it does not fit.
        error: what the decoder raised.
    """
    missing = _MISSING.fullmatch(str(error))
    if missing is None or not isinstance(value, dict):
        return ""
    known: Iterable[str] = _wire_names(tp) if isinstance(tp, type) else {}
    known = known or getattr(tp, "__annotations__", ())  # of a TypedDict
    keys = cast("dict[object, object]", value)
    # Only what looks like a name is shown of data.
    others = [key for key in keys if isinstance(key, str) and step_to(key) == f".{key}"]
    near = get_close_matches(missing["name"], [key for key in others if key not in known], n=1)
    return f"; was it meant by {near[0]!r}?" if near else ""


_MISSING: Final = re.compile(r"Object missing required field `(?P<name>.*)`")
"""What msgspec says of a member of the value itself, not of one deep inside."""


@lru_cache(maxsize=256)
def _wire_names(cls: type[Any]) -> dict[str, str]:
    """The names that the members of a class's objects have in JSON, each with its attribute's."""
    if issubclass(cls, msgspec.Struct):
        names = dict(zip(cls.__struct_encode_fields__, cls.__struct_fields__, strict=True))
        tag = cls.__struct_config__.tag_field
        return names if tag is None else {**names, tag: tag}
    if dataclasses.is_dataclass(cls):
        return {field.name: field.name for field in dataclasses.fields(cast(Any, cls))}
    return {}
