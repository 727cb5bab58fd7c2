"""Whatever travels comes back the same, and whatever arrives either fits or is refused politely."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import uuid
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Any, cast

import msgspec
import pydantic
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from typing_extensions import TypedDict

from trio_tasks.errors import SerializationError
from trio_tasks.payloads import codec_for, decode_plain, digest, encode

LIMIT = 10_000_000


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Item:
    name: str
    price: Decimal
    weight: float | None


class Tags(TypedDict):
    names: set[str]
    counts: dict[str, int]


class Order(msgspec.Struct):
    id: uuid.UUID
    items: list[Item]
    at: dt.datetime
    wait: dt.timedelta
    colour: Colour | None
    blob: bytes
    pair: tuple[int, bool]
    by_day: dict[dt.date, dt.time]
    tags: Tags


class User(pydantic.BaseModel):
    name: str
    born: dt.date | None
    item: Item | None
    roles: frozenset[int]
    score: float | None
    wait: dt.timedelta


@dataclasses.dataclass
class Team:
    lead: User
    members: dict[str, User]
    order: Order | None
    rest: object


# JSON and RFC 3339 know whole minutes of offset only.
zones = st.one_of(
    st.none(),
    st.integers(-23 * 60, 23 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
floats = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
moments = st.datetimes(timezones=zones)
clocks = st.times(timezones=zones)
plain: st.SearchStrategy[object] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), floats, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(texts, inner, max_size=5)),
    max_leaves=20,
)
items = st.builds(Item, name=texts, price=decimals, weight=st.none() | floats)
tags = st.fixed_dictionaries(
    {"names": st.sets(texts, max_size=5), "counts": st.dictionaries(texts, st.integers())}
)
orders = st.builds(
    Order,
    id=st.uuids(),
    items=st.lists(items, max_size=3),
    at=moments,
    wait=st.timedeltas(),
    colour=st.none() | st.sampled_from(Colour),
    blob=st.binary(max_size=50),
    pair=st.tuples(st.integers(), st.booleans()),
    by_day=st.dictionaries(st.dates(), clocks, max_size=3),
    tags=tags,
)
users = st.builds(
    User,
    name=texts,
    born=st.none() | st.dates(),
    item=st.none() | items,
    roles=st.frozensets(st.integers(-(2**63), 2**63 - 1), max_size=5),
    score=st.none() | floats,
    wait=st.timedeltas(dt.timedelta(days=-999), dt.timedelta(days=999)),
)
teams = st.builds(
    Team,
    lead=users,
    members=st.dictionaries(texts, users, max_size=2),
    order=st.none() | orders,
    rest=plain,
)

TYPED: list[tuple[object, st.SearchStrategy[Any]]] = [
    (object, plain),
    (int, st.integers()),
    (float, floats),
    (str, texts),
    (bytes, st.binary()),
    (dt.datetime, moments),
    (dt.date, st.dates()),
    (dt.time, clocks),
    (dt.timedelta, st.timedeltas()),
    (uuid.UUID, st.uuids()),
    (Decimal, decimals),
    (Colour, st.sampled_from(Colour)),
    (tuple[int, str], st.tuples(st.integers(), texts)),
    (set[int], st.sets(st.integers())),
    (frozenset[str], st.frozensets(texts)),
    (dict[int, float], st.dictionaries(st.integers(), floats)),
    (dict[Colour, dt.date], st.dictionaries(st.sampled_from(Colour), st.dates())),
    (list[Item] | None, st.none() | st.lists(items)),
    (Tags, tags),
    (Order, orders),
    (User, users),
    (list[User], st.lists(users, max_size=3)),
    (Team, teams),
]
CODECS = [codec_for(tp) for tp, _ in TYPED]

# Where one example is tried on each codec, or with each poison: drawing it is what takes time.
_thrice = settings(max_examples=3 * settings().max_examples)


def _id(case: object) -> str | None:
    return getattr(case, "__name__", None)


@pytest.mark.parametrize(("tp", "values"), TYPED, ids=_id)
@given(data=st.data())
def test_value_of_a_supported_type_comes_back_equal(
    tp: object, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    value = data.draw(values)
    codec = codec_for(tp)
    raw = codec.encode(value, max_bytes=LIMIT)
    back = codec.decode(raw)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(("tp", "values"), TYPED[-4:], ids=_id)
@given(data=st.data())
def test_value_without_a_type_is_written_as_its_own_type_would_write_it(
    tp: object, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    value = data.draw(values)
    raw = encode([value], max_bytes=LIMIT)
    assert codec_for(list[tp]).decode(raw) == [value]
    assert decode_plain(raw) == json.loads(raw)


@given(value=plain)
def test_plain_json_means_the_same_to_the_standard_library(value: object) -> None:
    raw = encode(value, max_bytes=LIMIT)
    assert json.loads(raw) == value
    assert decode_plain(json.dumps(value).encode()) == value


Place = Callable[[object], object]
"""Puts a value at some depth into plain JSON, among other things."""


def _here(value: object) -> object:
    return value


def _in_a_list(others: list[object], place: Place) -> Place:
    return lambda value: [*others, place(value)]


def _in_a_tuple(place: Place) -> Place:
    return lambda value: (place(value),)


def _in_an_object(key: str, place: Place, other: object) -> Place:
    return lambda value: {"other": other, key: place(value)}


def _in_a_team(lead: User, place: Place) -> Place:
    return lambda value: Team(lead, {}, None, place(value))


places: st.SearchStrategy[Place] = st.recursive(
    st.just(_here),
    lambda inner: st.one_of(
        st.builds(_in_a_list, st.lists(plain, max_size=2), inner),
        st.builds(_in_a_tuple, inner),
        st.builds(_in_an_object, texts, inner, plain),
        st.builds(_in_a_team, users, inner),
    ),
    max_leaves=4,
)


POISONS: list[object] = [
    math.nan,
    -math.inf,
    {1},
    frozenset[int](),
    {1: 1},
    {None: 1},
    object(),
    "\ud800",
    {"\udfff": 1},
    10**5000,
    Decimal("NaN"),
    Item("x", Decimal(1), math.nan),
    User.model_construct(name="x", born=None, item=None, roles=frozenset[int](), score=math.nan),
]


@_thrice
@given(place=places)
def test_value_that_json_would_change_is_refused_wherever_it_hides(place: Place) -> None:
    note(f"at {place('here')!r}")
    team_codec = codec_for(Team)
    for poison in POISONS:
        note(type(poison).__name__)  # Python cannot show 10**5000
        value = place(poison)
        with pytest.raises(SerializationError):
            encode(value, max_bytes=LIMIT)
        team = Team(
            User(
                name="x", born=None, item=None, roles=frozenset(), score=None, wait=dt.timedelta()
            ),
            {},
            None,
            value,
        )
        with pytest.raises(SerializationError):
            team_codec.encode(team, max_bytes=LIMIT)


plain_texts = plain.map(lambda value: json.dumps(value).encode())


def _insert(raw: bytes, at: int, piece: bytes) -> bytes:
    at %= len(raw) + 1
    return raw[:at] + piece + raw[at:]


json_like = st.one_of(
    st.binary(max_size=200),
    st.text('[]{}",:\\ud8e0123456789.+-NaIfinty truel\n', max_size=60).map(str.encode),
    plain_texts,
    st.builds(_insert, plain_texts, st.integers(0, 10_000), st.binary(max_size=3)),
    teams.map(lambda team: codec_for(Team).encode(team, max_bytes=LIMIT)),
)


@_thrice
@given(raw=json_like)
def test_arbitrary_bytes_are_decoded_or_refused_with_the_one_declared_error(raw: bytes) -> None:
    for codec in CODECS:
        note(repr(codec))
        try:
            value = codec.decode(raw)
        except SerializationError:
            continue
        json.loads(raw, parse_constant=pytest.fail)
        if codec.type is object:
            assert decode_plain(encode(value, max_bytes=LIMIT)) == value


@_thrice
@given(value=st.one_of(plain, teams, orders, st.integers(), texts))
def test_emit_accepts_only_what_the_handler_can_decode(value: object) -> None:
    for codec in CODECS:
        note(repr(codec))
        try:
            raw = codec.encode(value, max_bytes=LIMIT)
        except SerializationError:
            continue
        back = codec.decode(raw)
        assert codec.decode(codec.encode(back, max_bytes=LIMIT)) == back


TEMPLATES = [
    "{}",
    '"{}"',
    '["{}"]',
    '{{"a":"{}',
    '{{"{}!":1}}',
    '{{"id":"{}"}}',
    '{{"name":"{}","price":"{}"}}',
    '{{"name":["{}"],"roles":"{}"}}',
    '{{"names":["{}"],"counts":{{"{}!":"{}"}}}}',
    '{{"lead":{{"name":"{}"}},"members":{{"{}!":1}}}}',
]


@given(
    secret=st.integers(10**9, 10**10).map("hunter{}".format), template=st.sampled_from(TEMPLATES)
)
def test_refusal_never_quotes_the_data(secret: str, template: str) -> None:
    for codec in CODECS:
        note(repr(codec))
        refusal: SerializationError | None = None
        try:
            codec.decode(template.format(secret, secret, secret).encode())
        except SerializationError as error:
            refusal = error
        assert refusal is None or (secret not in str(refusal) and refusal.__context__ is None)


@given(value=plain, data=st.data())
def test_digest_does_not_depend_on_the_order_of_keys_or_on_spaces(
    value: object, data: st.DataObject
) -> None:
    def shuffled(value: object) -> object:
        if isinstance(value, dict):
            members = cast(dict[str, object], value)
            keys = data.draw(st.permutations(list(members)))
            return {key: shuffled(members[key]) for key in keys}
        if isinstance(value, list):
            return [shuffled(item) for item in cast(list[object], value)]
        return value

    other = json.dumps(shuffled(value), indent=2).encode()
    assert digest(encode(value, max_bytes=LIMIT)) == digest(other)


@given(one=plain, other=plain)
def test_digests_are_equal_exactly_if_the_data_are(one: object, other: object) -> None:
    def canonical(value: object) -> str:
        """Say the same of equal data, told apart from `digest`: all numbers as fractions."""
        if isinstance(value, bool) or value is None or isinstance(value, str):
            return repr(value)
        if isinstance(value, int | float):
            return "/".join(map(str, value.as_integer_ratio()))
        if isinstance(value, dict):
            members = cast(dict[str, object], value)
            return "{" + ",".join(f"{k!r}:{canonical(members[k])}" for k in sorted(members)) + "}"
        return "[" + ",".join(map(canonical, cast(list[object], value))) + "]"

    same = canonical(one) == canonical(other)
    digests = [digest(encode(value, max_bytes=LIMIT)) for value in (one, other)]
    assert (digests[0] == digests[1]) is same
