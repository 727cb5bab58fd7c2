"""How the values of a type are written and read: msgspec, and what msgspec has to be told.

msgspec knows most types of 2-api's list. This module adds Pydantic models and subclasses of JSON's
own types, and refuses the annotations that msgspec takes but could never read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any, Final, NamedTuple, Never, NoReturn, Protocol, TypeGuard, cast

import msgspec
from msgspec import inspect as shapes

__all__ = [
    "JsonForm",
    "PydanticModel",
    "encode_in_order",
    "encode_json",
    "is_model",
    "json_form",
    "name_of",
]


class JsonForm(NamedTuple):
    """How the values of one type are written and read, before any check of what is written."""

    type: object
    """The type; `object` for all that mean plain JSON."""
    encode: Callable[[object], bytes]
    decode: Callable[[bytes], object]
    equal_is_same: bool
    """Whether `==` compares everything, whatever classes are in the type."""
    accepts_none: bool


def json_form(tp: object) -> JsonForm:
    """Return the form of a type.

    Raises:
        TypeError, NameError, …: `tp`, or a type inside it, cannot be read; the text says why.
    """
    if any(tp is plain for plain in (Any, Never, NoReturn)):
        tp = object
    decode = msgspec.json.Decoder(Any if tp is object else tp, dec_hook=_read_foreign).decode
    nodes = list(_type_nodes(Any if tp is object else tp))
    for node in nodes:
        _check_type_node(node)
    has_sets = any(isinstance(node, shapes.SetType | shapes.FrozenSetType) for node in nodes)
    equal_is_same = all(_compares_all(node.cls) for node in nodes if isinstance(node, _CLASS_NODES))
    try:
        decode(b"null")
    except Exception:
        accepts_none = False
    else:
        accepts_none = True
    encode = encode_in_order if has_sets else encode_json
    return JsonForm(tp, encode, decode, equal_is_same, accepts_none)


def name_of(tp: object) -> str:
    """Return a type's name as a message shows it."""
    # `list[int]` passes for an instance of `type`, so ask what it really is.
    return cast(type, tp).__qualname__ if issubclass(type(tp), type) else repr(tp)


# ---- Values that msgspec does not know ----


class PydanticModel(Protocol):
    """What is used of `pydantic.BaseModel` (version 2)."""

    @property
    def model_extra(self) -> dict[str, object] | None:
        """The members that are not fields, if the model allows them."""
        ...

    def model_dump_json(self, *, by_alias: bool, round_trip: bool, warnings: str) -> str:
        """Write the model's own JSON."""
        ...

    @classmethod
    def model_validate_json(cls, json_data: bytes, *, strict: bool) -> object:
        """Read it."""
        ...


def is_model(value: object) -> TypeGuard[PydanticModel]:
    """Tell whether `value` is an instance of a Pydantic model."""
    return _is_model_class(type(value))


def _is_model_class(cls: object) -> bool:
    # The second attribute tells a model from a Pydantic dataclass.
    return (
        isinstance(cls, type)
        and hasattr(cls, "__pydantic_validator__")
        and hasattr(cls, "model_dump_json")
    )


def _write_foreign(value: object) -> object:
    """Give the encoder something that it knows in place of `value`."""
    if is_model(value):
        # "error": by default Pydantic *warns* of a field of the wrong type, and quotes the data.
        text = value.model_dump_json(by_alias=True, round_trip=True, warnings="error")
        return msgspec.Raw(text.encode())
    # The encoder looks at exact types; a subclass counts as its base. A NaN is found later.
    match value:
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case date():
            return value.isoformat()  # of a `datetime` too
        case _:
            raise TypeError(name_of(type(value)))


def _read_foreign(tp: type, plain: object) -> object:
    """Make an instance of `tp` from plain JSON."""
    if tp is object:
        return plain
    # By way of JSON: of Python values, a strict model would refuse the text of a `datetime`.
    return cast(PydanticModel, tp).model_validate_json(encode_json(plain), strict=True)


encode_json: Final[Callable[[object], bytes]] = msgspec.json.Encoder(enc_hook=_write_foreign).encode
_encode_sorted: Final = msgspec.json.Encoder(enc_hook=_write_foreign, order="deterministic").encode


def encode_in_order(value: object) -> bytes:
    """Encode with keys in order, and sets too if their elements can be compared.

    For `digest`: the order in which a set of texts is written differs between processes.
    """
    try:
        return _encode_sorted(value)
    except TypeError:
        return encode_json(value)


# ---- Types that can be read ----

_CLASS_NODES: Final = (shapes.StructType, shapes.DataclassType, shapes.CustomType)
_KEY_NODES: Final = (
    shapes.AnyType,
    shapes.StrType,
    shapes.IntType,
    shapes.FloatType,
    shapes.BytesType,
    shapes.DateTimeType,
    shapes.DateType,
    shapes.TimeType,
    shapes.TimeDeltaType,
    shapes.UUIDType,
    shapes.DecimalType,
    shapes.EnumType,
    shapes.LiteralType,
    shapes.UnionType,
    shapes.Metadata,
)


def _type_nodes(tp: object) -> Iterator[object]:
    """Yield every node of msgspec's description of `tp`, each once (types may be recursive)."""
    pending: list[object] = [shapes.type_info(tp)]
    seen: dict[int, object] = {}  # by identity; keeps them alive, so that no identity comes twice
    while pending:
        node = pending.pop()
        if isinstance(node, tuple):
            pending.extend(cast("tuple[object, ...]", node))
        elif isinstance(node, shapes.Type | shapes.Field) and id(node) not in seen:
            seen[id(node)] = node
            pending.extend(getattr(node, name) for name in node.__struct_fields__)
            yield node


def _compares_all(cls: type) -> bool:
    """Tell whether the `__eq__` of a class is a generated one that leaves nothing out."""
    code = getattr(cls.__eq__, "__code__", None)  # None: in C, so that of a Struct or of `object`
    generated = (
        code is None
        or code.co_filename == "<string>"  # by `dataclass`
        or cls.__eq__.__module__ == "pydantic.main"
    )
    return generated and not (
        dataclasses.is_dataclass(cls)
        and any(not field.compare for field in dataclasses.fields(cls))
    )


def _check_type_node(node: object) -> None:
    """Refuse what the decoder accepts when it is made but could never read."""
    match node:
        case shapes.CustomType(cls=cls) if not (cls is object or _is_model_class(cls)):
            raise TypeError(
                f"{name_of(cls)} has no JSON form; allowed are JSON types, dataclasses, "
                "TypedDicts, msgspec Structs, Pydantic models, datetime, date, time, timedelta, "
                "UUID, Decimal, Enum, bytes, tuples and sets"
            )
        case shapes.DataclassType(cls=cls) if hasattr(cls, "__pydantic_validator__"):
            raise TypeError(
                f"{name_of(cls)} is a Pydantic dataclass, whose validators would not run; "
                "use a Pydantic model or a standard dataclass"
            )
        case shapes.DictType(key_type=key) if not isinstance(key, _KEY_NODES):
            raise TypeError("the keys of a dict must be of a type that is written as text in JSON")
        case _:
            pass
