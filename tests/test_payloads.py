"""Data and results: what travels unchanged, what is refused, and what the refusal says."""

from __future__ import annotations

import dataclasses
import inspect
import math
import subprocess
import sys
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from typing import Annotated, Any, Generic, Literal, NamedTuple, Never, TypeVar

import msgspec
import pydantic
import pytest
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from trio_tasks.errors import ConfigurationError, SerializationError
from trio_tasks.payloads import MAX_DEPTH, codec_for, decode_plain, digest, encode

T = TypeVar("T")
LIMIT = 524_288
NAN = math.nan


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


class Broken(Enum):
    NAN = math.nan


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Mail:
    to: str
    tags: list[str] = dataclasses.field(default_factory=list[str])
    size: float | None = None


@dataclasses.dataclass
class Everything:
    at: datetime
    day: date
    clock: time
    wait: timedelta
    id: uuid.UUID
    price: Decimal
    colour: Colour
    level: Level
    blob: bytes
    pair: tuple[int, str]
    many: tuple[float, ...]
    unique: set[Colour]
    frozen: frozenset[int]
    by_number: dict[int, str]
    by_day: dict[date, int]
    anything: object
    mails: list[Mail]
    maybe: Mail | None = None


@dataclasses.dataclass
class Secretive:
    """Its `==` looks away."""

    name: str
    size: float | None = dataclasses.field(default=None, compare=False)


class Event(TypedDict):
    name: str
    tags: set[str]


class Order(msgspec.Struct):
    id: int
    lines: list[Mail] = []
    labels: set[str] = set()


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    name: str


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    a: int


class Box(msgspec.Struct, Generic[T]):
    value: T


class User(pydantic.BaseModel):
    name: str
    born: date | None = None
    mail: Mail | None = None
    roles: set[str] = set()
    site: pydantic.HttpUrl | None = None
    score: float | None = None


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    sender: str = pydantic.Field(alias="from")

    @pydantic.computed_field
    @property
    def shout(self) -> str:
        return self.sender.upper()


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


class Login(pydantic.BaseModel):
    password: pydantic.SecretStr


class Adult(pydantic.BaseModel):
    age: int

    @pydantic.field_validator("age")
    @classmethod
    def not_too_young(cls, age: int) -> int:
        if age < 18:
            raise ValueError(f"{age} is too young")
        return age


@dataclasses.dataclass
class Team:
    lead: User
    members: list[User]
    deputy: User | None = None


@dataclasses.dataclass
class Picky:
    age: int

    def __post_init__(self) -> None:
        if self.age < 0:
            raise ValueError(f"{self.age} is negative")
        if self.age > 150:
            raise KeyError(self.age)


@pydantic_dataclass
class Validated:
    age: int = pydantic.Field(gt=0)


class Plain:
    """A class that nobody knows how to write."""

    def __init__(self) -> None:
        self.password = "hunter2"


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    pass


class Moment(datetime):
    """Stands for the `datetime`s of pendulum and freezegun."""


def cyclic() -> list[object]:
    items: list[object] = []
    items.append({"items": items})
    return items


def nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def refusal(value: object, tp: object = object, *, max_bytes: int = LIMIT) -> str:
    with pytest.raises(SerializationError) as caught:
        codec_for(tp).encode(value, max_bytes=max_bytes)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None, "the chained error could show the data"
    return str(caught.value)


def misfit(raw: bytes, tp: object = object) -> str:
    with pytest.raises(SerializationError) as caught:
        codec_for(tp).decode(raw)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None, "the chained error could show the data"
    return str(caught.value)


def round_trip(value: object, tp: object) -> object:
    codec = codec_for(tp)
    return codec.decode(codec.encode(value, max_bytes=LIMIT))


# ---- Without a type ----


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (None, b"null"),
        (True, b"true"),
        ("é😀\x00", '"é😀\\u0000"'.encode()),
        (2**64, b"18446744073709551616"),
        (1e300, b"1e300"),
        ({"a": [1, 2.5, None], "b": {}}, b'{"a":[1,2.5,null],"b":{}}'),
        ((1, ("x",)), b'[1,["x"]]'),
        (Point(1, 2), b"[1,2]"),
        (b"\xff\x00", b'"/wA="'),
        (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), b'"2026-01-02T03:04:05.000006Z"'),
        (date(2026, 1, 2), b'"2026-01-02"'),
        (time(3, 4), b'"03:04:00"'),
        (timedelta(minutes=90), b'"PT5400S"'),
        (uuid.UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        (Decimal("1.10"), b'"1.10"'),
        ([Colour.RED, Level.LOW, Word.YES], b'["red",1,"yes"]'),
        (Mail("a@b.c", ["x"]), b'{"to":"a@b.c","tags":["x"],"size":null}'),
        ({"order": Order(1)}, b'{"order":{"id":1,"lines":[],"labels":[]}}'),
        (
            [Text("a"), Whole(1), Real(1.5), Moment(2026, 1, 2)],
            b'["a",1,1.5,"2026-01-02T00:00:00"]',
        ),
        (
            User.model_validate({"name": "Ada", "site": "https://a.b/"}),
            b'{"name":"Ada","born":null,"mail":null,"roles":[],"site":"https://a.b/","score":null}',
        ),
        ([Aliased.model_validate({"from": "a"})], b'[{"from":"a"}]'),
        (Open.model_validate({"a": {"b": 1}}), b'{"a":{"b":1}}'),
    ],
)
def test_untyped_value_is_written_as_strict_json(value: object, raw: bytes) -> None:
    assert encode(value, max_bytes=LIMIT) == raw


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (NAN, "data: a float that is NaN or infinite is not JSON"),
        (
            {"a": {"b": [1, 2, math.inf]}},
            "data.a.b[2]: a float that is NaN or infinite is not JSON",
        ),
        ([Real("nan")], "data[0]: a float that is NaN or infinite is not JSON"),
        ([Broken.NAN], "data[0]: a float that is NaN or infinite is not JSON"),
        (Mail("a", size=NAN), "data.size: a float that is NaN or infinite is not JSON"),
        ({"d": Decimal("sNaN")}, "data.d: a Decimal that is NaN or infinite"),
        (Decimal("-Infinity"), "data: a Decimal that is NaN or infinite"),
        ({"user": {"tags": {1, 2}}}, "data.user.tags: a set is not JSON, unless the type of this"),
        ([frozenset[int]()], "data[0]: a set is not JSON"),
        ({"a": "\ud800"}, "data.a: text with a lone surrogate"),
        ({"\ud800": 1}, "data: a key is text with a lone surrogate"),
        ({"n": 10**5000}, "data.n: an integer of too many digits, at most 4300 are allowed"),
        ({1: 2}, "data: a key is int, not text, and no type of this place says so"),
        ({"a": {None: 2}}, "data.a: a key is NoneType, not text"),
        ([{date(2026, 1, 1): 1}], "data[0]: a key is date, not text"),
        ({"a": [object()]}, "data.a[0]: object is not JSON"),
        ([Plain()], "data[0]: Plain is not JSON"),
        (Fraction(1, 2), "data: Fraction is not JSON"),
        (iter([1]), "data: list_iterator is not JSON"),
        (Mail, "data: type is not JSON"),
        (msgspec.Raw(b"{{"), "data: JSON is malformed"),
        (msgspec.Raw(b"[1]"), "data: Raw is not JSON"),
        (nested(MAX_DEPTH + 1), f"data: nested deeper than {MAX_DEPTH} levels"),
        (nested(100_000), f"data: nested deeper than {MAX_DEPTH} levels"),
        (cyclic(), f"data: nested deeper than {MAX_DEPTH} levels, or contains itself"),
        (
            datetime(1800, 1, 1, tzinfo=timezone(timedelta(seconds=3208))),
            "data: a datetime whose offset from UTC has seconds",
        ),
        ({"hunter2@example.com": NAN}, "data[...]: a float"),
        (Open.model_validate({"f": object()}), "data.f: object is not JSON"),
        (Login.model_validate({"password": "hunter2"}), "data.password: SecretStr is not JSON"),
        (User.model_construct(name=7), "data: User cannot write this value so that"),
    ],
)
def test_untyped_value_that_json_would_change_is_refused(value: object, message: str) -> None:
    text = refusal(value)
    assert text.startswith(message)
    assert "hunter2" not in text


def test_deepest_nesting_allowed_is_counted_outside_of_strings() -> None:
    value = [nested(MAX_DEPTH - 1), "[[[{{{" * 100, '\\"[', "\\\\", ["]"] * 500]
    assert decode_plain(encode(value, max_bytes=LIMIT)) == value


def test_nesting_that_strings_full_of_brackets_hide_is_found() -> None:
    value: list[object] = []
    for _ in range(MAX_DEPTH):
        value = ["]", value, "["]
    assert refusal(value) == f"data: nested deeper than {MAX_DEPTH} levels"


def test_value_that_is_too_large_is_refused_with_both_sizes() -> None:
    encode("x" * 98, max_bytes=100)
    assert refusal("x" * 99, max_bytes=100) == "data: 101 bytes of JSON, at most 100 are allowed"


def test_set_in_an_object_is_allowed_by_the_type_of_that_object() -> None:
    assert encode([Order(1, labels={"a"})], max_bytes=LIMIT) == (
        b'[{"id":1,"lines":[],"labels":["a"]}]'
    )
    assert encode({"u": User(name="a", roles={"x"})}, max_bytes=LIMIT)
    assert refusal({"o": Box({1})}) == (
        "data.o.value: a set is not JSON, unless the type of this place is a set"
    )


def test_message_calls_the_value_what_the_caller_calls_it() -> None:
    with pytest.raises(SerializationError, match=r"^result\[0\]: object is not JSON$"):
        encode([object()], max_bytes=LIMIT, what="result")
    with pytest.raises(SerializationError, match=r"^result: Input data was truncated$"):
        decode_plain(b"[", what="result")


def test_very_long_place_is_cut() -> None:
    value: object = NAN
    for _ in range(40):
        value = {"a_name_that_is_rather_long": value}
    assert len(refusal(value)) < 400


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e400",
        b"[-1e400]",
        b"1" * 5000,
        b'"\\ud800"',
        b'"\\udc00"',
        b'{"\\ud800":1}',
        b'"\xed\xa0\x80"',
        b"\xff",
        b'"\xff"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"1 2",
        b"{}x",
        b"null\x00",
        b"[1,]",
        b"{1:2}",
        b"'a'",
        b"01",
        b"\xef\xbb\xbf1",
        b'"\x01"',
    ],
)
def test_text_that_is_not_strict_json_is_refused(raw: bytes) -> None:
    assert misfit(raw).startswith("data")


# ---- With a type ----


def everything() -> Everything:
    return Everything(
        at=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=-3))),
        day=date(2026, 1, 2),
        clock=time(3, 4, 5, 6),
        wait=timedelta(days=-1, microseconds=1),
        id=uuid.UUID(int=7),
        price=Decimal("0.10"),
        colour=Colour.BLUE,
        level=Level.LOW,
        blob=b"\x00\xff",
        pair=(1, "x"),
        many=(1.5, 2.0),
        unique={Colour.RED, Colour.BLUE},
        frozen=frozenset({3, 1}),
        by_number={1: "one"},
        by_day={date(2026, 1, 1): 1},
        anything={"a": [None, 1]},
        mails=[Mail("a@b.c", ["x"])],
    )


@pytest.mark.parametrize(
    ("value", "tp"),
    [
        (everything(), Everything),
        ({"name": "x", "tags": {"a", "b"}}, Event),
        ([Order(1, [Mail("a")], {"x"})], list[Order]),
        (Dog("Rex"), Cat | Dog),
        (Box(Mail("a")), Box[Mail]),
        (User(name="a", born=date(2000, 1, 1), mail=Mail("b"), roles={"x", "y"}), User),
        (Aliased.model_validate({"from": "a"}), Aliased),
        (Team(User(name="a"), [User(name="b")], User(name="c")), Team),
        (None, User | None),
        (User(name="a"), User | None),
        ({"a": User(name="a")}, dict[str, User]),
        ({1, 2}, set[int]),
        ({"b", "a"}, frozenset[str]),
        ({Colour.RED: 1}, dict[Colour, int]),
        ({1: Secretive("a")}, dict[int, Secretive]),
        ("a", Literal["a", "b"]),
        (Point(1, 2), Point),
        ({"x": [1, None]}, dict[str, object]),
        (None, None),
    ],
)
def test_typed_value_comes_back_as_exactly_its_type(value: object, tp: object) -> None:
    back = round_trip(value, tp)
    assert type(back) is type(value) or isinstance(value, set | frozenset)
    assert back == value


def test_bare_annotations_mean_plain_json() -> None:
    for tp in (object, Any, Never):
        codec = codec_for(tp)
        assert codec.type is object
        assert codec.accepts_none
        assert codec.decode(b'{"a":[1]}') == {"a": [1]}


@pytest.mark.parametrize(
    ("tp", "accepts"),
    [
        (object, True),
        (None, True),
        (Mail | None, True),
        (User | None, True),
        (Literal["a"] | None, True),
        (Mail, False),
        (User, False),
        (dict[str, object], False),
        (int, False),
    ],
)
def test_codec_knows_whether_none_fits(tp: object, accepts: bool) -> None:
    assert codec_for(tp).accepts_none is accepts


def test_plain_json_that_fits_is_accepted_for_a_typed_handler() -> None:
    assert round_trip({"to": "a", "tags": ["x"]}, Mail) == Mail("a", ["x"])
    assert round_trip({"name": "a", "born": "2000-01-01"}, User) == User(
        name="a", born=date(2000, 1, 1)
    )
    assert round_trip({"name": "a", "tags": ("x",)}, Event) == {"name": "a", "tags": {"x"}}
    assert round_trip(1, float) == 1.0


@pytest.mark.parametrize(
    ("value", "tp", "message"),
    [
        ("7", int, "data does not fit int: expected `int`, got `str`"),
        ([1, "7"], list[int], "data[1] does not fit list[int]: expected `int`, got `str`"),
        ({"tags": []}, Mail, "data does not fit Mail: Object missing required field `to`"),
        ({"to": "a", "tags": [1]}, Mail, "data.tags[0] does not fit Mail: expected `str`, got"),
        ([Order(1)], Order, "data does not fit Order: expected `object`, got `array`"),
        (None, Mail, "data does not fit Mail: expected `object`, got `null`"),
        ({"name": 7}, User, "data.name does not fit User: Pydantic says string_type"),
        ({"lead": {}, "members": []}, Team, "data.lead.name does not fit Team: Pydantic says miss"),
        ({"name": "a", "born": "x"}, User, "data.born does not fit User: Pydantic says date_"),
        (Mail("a", size=NAN), Mail, "data.size: a float that is NaN or infinite is not JSON"),
        (Secretive("a", NAN), Secretive, "data.size: a float that is NaN or infinite is not JSON"),
        (User(name="a", score=NAN), User, "data.score: a float that is NaN or infinite is not"),
        ({"to": "a", "tags": {"x"}}, Mail, "data.tags: a set is not JSON, unless the type of"),
        ({"x": {1}}, dict[str, object], "data.x: a set is not JSON"),
        ({"x": {1: 2}}, dict[str, object], "data.x: a key is int, not text"),
        ({NAN}, set[float | None], "data[...]: a float that is NaN or infinite is not JSON"),
        (object(), Mail, "data: object is not JSON"),
        ({"to": "\ud800"}, Mail, "data.to: text with a lone surrogate"),
        ("green-secret", Colour, "data does not fit Colour: Invalid enum value"),
        ("secret", Literal["a"], "data does not fit typing.Literal['a']: Invalid enum value"),
        ({"type": "secret"}, Cat | Dog, "data.type does not fit "),
        ({"a": 1, "secret": 2}, Strict, "data does not fit Strict: Object contains unknown field"),
        ({"secret": "x"}, dict[str, int], "data[...] does not fit dict[str, int]: expected `int`"),
        ({"secret": 1}, dict[int, int], "data[key] does not fit dict[int, int]: expected `int`"),
        ({"age": -77}, Picky, "data does not fit Picky: refused with ValueError"),
        ({"age": 777}, Picky, "data does not fit Picky: refused with KeyError"),
        ({"age": 7}, Adult, "data.age does not fit Adult: Pydantic says value_error"),
        ([{"age": 7}], list[Adult], "data[0].age does not fit list[tests.test_payloads.Adult]: "),
    ],
)
def test_value_that_does_not_fit_is_refused_at_the_emit(
    value: object, tp: object, message: str
) -> None:
    text = refusal(value, tp)
    assert text.startswith(message)
    assert "secret" not in text
    assert "7" not in text


def test_data_that_do_not_fit_are_refused_without_being_quoted() -> None:
    assert misfit(b'{"to":7777}', Mail) == "data.to does not fit Mail: expected `str`, got `int`"
    assert misfit(b'{"age":7777}', Picky) == "data does not fit Picky: refused with KeyError"
    assert misfit(b'[{"age":7}]', list[Adult]).endswith("Pydantic says value_error")
    assert misfit(b"{", Mail) == "data does not fit Mail: Input data was truncated"
    assert misfit(b'{"name":"a","score":NaN}', User).startswith("data does not fit User: JSON is")
    assert misfit(b'{"name":1,"born":1}', User).endswith("Pydantic says string_type, and 1 more")


class Parcel(TypedDict, total=False):
    to: str
    mails: list[Mail]


class Letter(TypedDict):
    to: str
    title: str


class Renamed(msgspec.Struct, rename="camel", tag="renamed", tag_field="kind"):
    sent_to: str
    inner: Mail | None = None


@pytest.mark.parametrize(
    ("value", "tp", "hint"),
    [
        ({"too": "a"}, Mail, "; was it meant by 'too'?"),
        ({"kind": "renamed", "sent_to": "a"}, Renamed, "; was it meant by 'sent_to'?"),
        ({"too": "a", "title": ""}, Letter, "; was it meant by 'too'?"),
        ({"title": "", "size": 1}, Letter, ""),
        ({"tags": []}, Mail, ""),
        ({"to a secret": "a"}, Mail, ""),  # shows of the data only what looks like a name
    ],
)
def test_a_missing_member_hints_at_a_misspelt_one(value: object, tp: object, hint: str) -> None:
    with pytest.raises(SerializationError, match="missing required field") as raised:
        codec_for(tp).encode(value, max_bytes=LIMIT)
    assert str(raised.value).partition("`")[2].partition("`")[2] == hint


def test_unknown_members_are_ignored_as_a_rolling_deploy_needs() -> None:
    assert codec_for(Mail).decode(b'{"to":"a","new":1}') == Mail("a")
    assert codec_for(Parcel).decode(b'{"to":"a","new":1}') == {"to": "a"}
    assert codec_for(Renamed).decode(b'{"kind":"renamed","sentTo":"a","new":1}') == Renamed("a")


@pytest.mark.parametrize(
    ("value", "tp", "message"),
    [
        (
            {"to": "a", "tag": []},
            Mail,
            "data.tag: Mail has no such member; did you mean 'tags'? (allowed: to, tags, size)",
        ),
        ({"to": "a", "from": "b"}, Parcel, "data.from: the type of this place has no such member"),
        ({"mails": [{"to": "a"}, {"to": "b", "x": 1}]}, Parcel, "data.mails[1].x: Mail has no"),
        ({"a": {"to": "a", "x": 1}}, dict[str, Mail], "data.a.x: Mail has no such member"),
        (({"to": "a", "x": 1},), tuple[Mail], "data[0].x: Mail has no such member"),
        ({"kind": "renamed", "sent_to": "a", "sentTo": "a"}, Renamed, "data.sent_to: Renamed has"),
        (
            {"kind": "renamed", "sentTo": "a", "inner": {"to": "a", "x": 1}},
            Renamed,
            "data.inner.x: Mail has no such member",
        ),
        ({"to": "a", "a secret": 1}, Mail, "data[...]: Mail has no such member"),
        ({"to": "a", "size": 1.5, "at": datetime(2026, 1, 1)}, Mail, "data.at: Mail has no such"),
    ],
)
def test_an_emit_that_knows_the_type_refuses_a_dict_with_other_members(
    value: object, tp: object, message: str
) -> None:
    codec = codec_for(tp)
    with pytest.raises(SerializationError) as raised:
        codec.encode(value, max_bytes=LIMIT, exact=True)
    assert str(raised.value).startswith(message)
    assert codec.decode(codec.encode(value, max_bytes=LIMIT)) is not None  # a result may have them


@pytest.mark.parametrize(
    ("value", "tp"),
    [
        ({"to": "a"}, Mail),
        ({"to": "a", "mails": [{"to": "b", "tags": ["x"]}]}, Parcel),
        ({"kind": "renamed", "sentTo": "a", "inner": {"to": "b"}}, Renamed),
        ({"sentTo": "a"}, Renamed),
        ({"1": "a", "2": "b"}, dict[int, str]),
        ({"name": "a", "born": "2020-01-01", "whatever": 1}, User),  # up to the model's own extra=
        (Mail("a"), Parcel),  # objects of other classes may have more
        ({"a": 1, "b": {"c": [{"d": None}]}}, object),
    ],
)
def test_a_dict_that_fits_is_accepted_by_an_emit_that_knows_the_type(
    value: object, tp: object
) -> None:
    codec = codec_for(tp)
    assert codec.encode(value, max_bytes=LIMIT, exact=True) == codec.encode(value, max_bytes=LIMIT)


def test_a_datetime_without_a_zone_stays_so_unless_the_type_asks_for_one() -> None:
    naive = datetime(2026, 1, 2, 3, 4)
    codec = codec_for(datetime)
    assert codec.decode(codec.encode(naive, max_bytes=LIMIT)) == naive
    aware = Annotated[datetime, msgspec.Meta(tz=True)]
    assert "data does not fit" in refusal(naive, aware)
    assert refusal({"at": naive}, dict[str, aware]).startswith("data[...] does not fit")
    assert codec_for(aware).encode(naive.replace(tzinfo=UTC), max_bytes=LIMIT)


def test_sets_are_written_in_the_same_order_by_every_process() -> None:
    program = (
        "from trio_tasks.payloads import codec_for;"
        "print(codec_for(set[str]).encode({str(n) for n in range(50)}, max_bytes=9999))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_pydantic_is_not_imported_for_those_who_do_not_use_it() -> None:
    program = (
        "import sys, trio_tasks.payloads as p;"
        "p.encode(object, max_bytes=9) if 0 else p.codec_for(dict[str, int]).decode(b'{}');"
        "sys.exit('pydantic' in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
        check=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("tp", "reason"),
    [
        (Plain, "Plain has no JSON form"),
        (list[Plain], "Plain has no JSON form"),
        (dict[str, Box[Plain]], "Plain has no JSON form"),
        (complex, "complex has no JSON form"),
        (Text, "Text has no JSON form"),
        ("Mail", "is not supported"),
        (Mail | Team, "may not contain more than one dataclass"),
        (User | str, "may not contain any additional types"),
        (Validated, "Validated is a Pydantic dataclass"),
        (dict[Point, int], "the keys of a dict must be of a type that is written as text"),
        (Broken, "Enums must contain either all str or all int values"),
    ],
)
def test_annotation_that_cannot_be_read_from_json_is_refused(tp: object, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        codec_for(tp)
    assert reason in str(caught.value)
    assert "cannot be the type of data or of a result" in str(caught.value)


def test_annotation_that_cannot_be_resolved_is_refused_by_name() -> None:
    @dataclasses.dataclass
    class Local:
        other: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigurationError, match="'Missing' is not defined"):
        codec_for(Local)
    assert encode(Local(1), max_bytes=LIMIT) == b'{"other":1}'


# ---- The users' own code, and the end of the stack ----


@dataclasses.dataclass(eq=False)
class Quarrelsome:
    size: float | None

    def __eq__(self, other: object) -> bool:
        raise ArithmeticError

    __hash__ = None  # type: ignore[assignment]


class Unlisted(dict[str, object]):
    def items(self) -> Any:
        raise LookupError


def test_object_whose_comparison_raises_is_looked_at_field_by_field() -> None:
    assert codec_for(Quarrelsome).encode(Quarrelsome(1.5), max_bytes=LIMIT) == b'{"size":1.5}'
    assert refusal(Quarrelsome(NAN), Quarrelsome).startswith("data.size: a float")


def test_error_in_the_code_of_a_value_is_a_refusal() -> None:
    assert refusal(Unlisted(a=(1,))) == "data: LookupError when it was encoded"


def test_no_recursion_error_escapes_near_the_end_of_the_stack() -> None:
    value, raw = nested(MAX_DEPTH), b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    outcomes: set[str] = set()

    def deeper(frames: int) -> None:
        if frames:
            return deeper(frames - 1)
        for act in (lambda: encode(value, max_bytes=LIMIT), lambda: decode_plain(raw)):
            try:
                act()
            except SerializationError as error:
                outcomes.add(str(error))
            else:
                outcomes.add("done")
        return None

    depth = len(inspect.stack(0))
    for left in range(60, 400, 20):
        deeper(sys.getrecursionlimit() - depth - left)
    assert outcomes <= {"done", f"data: nested deeper than {MAX_DEPTH} levels"}
    assert "done" in outcomes


# ---- Digest ----


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1,"b":{"c":2,"d":3}}', b'{ "b": {"d":3, "c":2}, "a": 1.0 }'),
        (b"[1e2,-0.0,1e22]", b"[100,0,10000000000000000000000]"),
        (b'"\\u00e9"', '"é"'.encode()),
    ],
)
def test_equal_data_have_the_same_digest(one: bytes, other: bytes) -> None:
    assert digest(one) == digest(other)
    assert len(digest(one)) == 32


def test_different_data_have_different_digests() -> None:
    texts = [b"1", b'"1"', b"true", b"[1]", b"[1,2]", b"[2,1]", b"null", b"{}", b"1.5", b'{"a":1}']
    assert len({digest(text) for text in texts}) == len(texts)


def test_digest_is_stable_across_versions() -> None:
    # A change would let a debounced job run twice during a rolling deploy.
    assert digest(b'{"b":[1.0,2.5],"a":null}') == "953546ac48dbf2142414f4f6e41c0550"


def test_digest_of_what_is_not_json_is_refused() -> None:
    for raw in (b"{", b"[" * 100_000):
        with pytest.raises(SerializationError):
            digest(raw)


def test_digest_of_data_that_are_too_deep_for_the_stack_is_refused() -> None:
    refused = 0
    for depth in range(100, 2000, 100):
        try:
            digest(b"[" * depth + b"1.0" + b"]" * depth)
        except SerializationError:
            refused += 1
    assert 0 < refused < 19
