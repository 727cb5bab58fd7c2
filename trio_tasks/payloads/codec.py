"""The codec of one type: a value to strict JSON and back, without loss; and the digest of data."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final, cast

from trio_tasks.errors import ConfigurationError, SerializationError
from trio_tasks.payloads.extras import find_extra, misspelt
from trio_tasks.payloads.faults import (
    MAX_DEPTH,
    UNKNOWN,
    equal,
    explain,
    find_fault,
    is_too_deep,
    too_deep,
)
from trio_tasks.payloads.json_form import encode_in_order, json_form, name_of

__all__ = ["PayloadCodec", "codec_for", "decode_plain", "digest", "encode"]


_NULL: Final = b"null"


class PayloadCodec:
    """Writes values of one type as strict JSON, and reads them back as exactly that type.

    Made once from a handler's annotation and used for every job. Thread-safe.

    Attributes:
        type: the annotation; `object` for plain JSON.
        accepts_none: whether `None` fits the type, which `repeat=` requires of a handler's data.
    """

    __slots__ = ("_decode", "_encode", "_equal_is_same", "accepts_none", "type")

    def __init__(self, tp: object) -> None:
        """Prepare the encoder and the decoder of `tp`.

        Args:
            tp: a resolved annotation. `object`, `Any`, `Never` and `NoReturn` mean plain JSON.

        Raises:
            ConfigurationError: `tp`, or a type inside it, cannot be read from JSON.
        """
        try:
            form = json_form(tp)
        except Exception as error:
            raise ConfigurationError(
                f"{name_of(tp)} cannot be the type of data or of a result: {error}"
            ) from error
        self.type: Final = form.type
        self._encode: Final = form.encode
        self._decode: Final = form.decode
        self._equal_is_same: Final = form.equal_is_same
        self.accepts_none: Final = form.accepts_none

    def __repr__(self) -> str:
        return f"<PayloadCodec {name_of(self.type)}>"

    def encode(
        self, value: object, *, max_bytes: int, what: str = "data", exact: bool = False
    ) -> bytes:
        """Return `value` as JSON that `decode` reads back without loss.

        Accepted are JSON values, dataclasses, TypedDicts, msgspec Structs, Pydantic models,
        `datetime`, `date`, `time`, `timedelta`, `UUID`, `Decimal`, `Enum`, `bytes` (base64) and
        tuples, nested at will; sets and keys that are not text where a type says so. A value of
        another shape that fits the type, say a dict for a dataclass, is accepted too.

        Where no type asks for more, a value is written in its JSON form and read back in that: a
        tuple as a list, a dataclass as a dict, `bytes` and a `datetime` as text. A set is refused
        there: a list would give it an order, another one in each process. A `datetime` without a
        zone stays one without; the annotation `Annotated[datetime, msgspec.Meta(tz=True)]`
        refuses it.

        The bytes of equal values may differ in the order of keys. Sets are written in order if
        their elements can be compared, so that they are the same in every process.

        Args:
            value: what to send.
            max_bytes: the largest JSON text allowed, in bytes.
            what: how the message calls the value: "data", "result".
            exact: refuse a dict with members that the type of its place does not have, and
                `decode` would ignore; see `extras.py`.

        Raises:
            SerializationError: `value` holds something that is not JSON, is changed by JSON (`NaN`,
                an infinity, an offset from UTC with seconds), is nested deeper than `MAX_DEPTH`,
                has an integer of more than 4300 digits, does not fit the type or is too large.
        """
        if value is None and self.accepts_none and max_bytes >= len(_NULL):
            return _NULL  # what most handlers return
        try:
            raw = self._encode(value)
            if len(raw) > max_bytes:
                problem = f": {len(raw)} bytes of JSON, at most {max_bytes} are allowed"
            elif len(raw) > 2 * MAX_DEPTH and is_too_deep(raw):
                problem = f": {too_deep}"
            else:
                back = self._decode(raw)
                if equal(back, value) and (self._equal_is_same or b"null" not in raw):
                    return raw
                if self.type is not object and equal(_PLAIN._decode(raw), value):
                    fault = None  # plain JSON that fits, as a dict does that becomes a dataclass
                else:
                    fault = find_fault(value, back)
                if fault is None and exact:
                    fault = find_extra(value, back)
                if fault is None:
                    return raw
                problem = f"{fault.path}: {fault.reason}"
        except Exception as error:
            fault = find_fault(value, UNKNOWN)
            if fault is None:
                problem = self._describe(error) + misspelt(value, self.type, error)
            else:
                problem = f"{fault.path}: {fault.reason}"
        # Raised outside the handler: an error that this one is chained to could show the value.
        raise SerializationError(f"{what}{problem}")

    def decode(self, raw: bytes, *, what: str = "data") -> object:
        """Return what `raw` holds, as exactly `type`.

        Strict: `"7"` is not an `int`. Types that JSON has no form for are read from their text.
        Members that an object's type does not have are ignored, as a rolling deploy needs (the
        worker may be older than the emitter), unless the type forbids them.

        Args:
            raw: a JSON text, from anywhere.
            what: how the message calls it: "data", "result".

        Raises:
            SerializationError: `raw` is not strict JSON or does not fit the type. Whatever is in
                `raw`, and whatever a validator of the user's raises, it is this error.
        """
        try:
            return self._decode(raw)
        except Exception as error:
            problem = self._describe(error)
        raise SerializationError(f"{what}{problem}")

    def _describe(self, error: Exception) -> str:
        """Say where and why the decoder has refused, without the data."""
        path, reason = explain(error)
        if self.type is object:
            return f"{path}: {reason}"
        return f"{path} does not fit {name_of(self.type)}: {reason}"


_PLAIN: Final = PayloadCodec(object)


def codec_for(tp: object) -> PayloadCodec:
    """Return the codec of an annotation; see `PayloadCodec`.

    Raises:
        ConfigurationError: `tp`, or a type inside it, cannot be read from JSON.
    """
    return _PLAIN if tp is object else PayloadCodec(tp)


def encode(value: object, *, max_bytes: int, what: str = "data") -> bytes:
    """Encode a value whose handler's type is not known here; see `PayloadCodec.encode`.

    Raises:
        SerializationError: `value` is not strict JSON, or too large.
    """
    return _PLAIN.encode(value, max_bytes=max_bytes, what=what)


def decode_plain(raw: bytes, *, what: str = "data") -> object:
    """Decode strict JSON to dicts, lists, texts, numbers, booleans and `None`.

    Raises:
        SerializationError: not UTF-8, not strict JSON (`NaN`, trailing bytes), a number that Python
            cannot hold (`1e400`, 5000 digits), a lone surrogate, or nested too deeply.
    """
    return _PLAIN.decode(raw, what=what)


def digest(data: bytes) -> str:
    """Return 32 hexadecimal digits that are the same for equal data, in every process and version.

    The digest is BLAKE2b (16 bytes) of a canonical form: no spaces, keys in order, and numbers by
    their value (`1.0` is `1`). `true` is not `1`, the order of an array counts, and text is
    compared code point by code point.

    Args:
        data: a JSON text.

    Raises:
        SerializationError: `data` is not strict JSON.
    """
    plain = decode_plain(data)
    try:
        if _MAYBE_INTEGRAL_FLOAT.search(data):
            plain = _with_integers(plain)
        canonical = encode_in_order(plain)
    except RecursionError:
        pass
    else:
        return blake2b(canonical, digest_size=16).hexdigest()
    raise SerializationError(f"data: {too_deep}")


# A float that is a whole number is written with one of these.
_MAYBE_INTEGRAL_FLOAT: Final = re.compile(rb"\.0|\d[eE]")


def _with_integers(value: object) -> object:
    """Replace floats that are whole numbers by these numbers, in plain JSON."""
    match value:
        case float():
            return int(value) if value.is_integer() else value
        case dict():
            members = cast("dict[object, object]", value)
            return {key: _with_integers(member) for key, member in members.items()}
        case list():
            return [_with_integers(item) for item in cast("list[object]", value)]
        case _:
            return value
