"""The scripts as they are sent, and the calls as they are read; all without a server."""

from __future__ import annotations

import hashlib
import itertools
import re
from pathlib import Path

import msgspec
import pytest

import trio_tasks.redis_streams
from trio_tasks.broker import NewJob, Outcome, Record, Registration, ScheduleRecord, StartToken
from trio_tasks.errors import InternalError
from trio_tasks.job import JobState
from trio_tasks.processor.decisions import Complete, Die
from trio_tasks.processor.lifecycle import legal_moves
from trio_tasks.redis_streams import calls
from trio_tasks.redis_streams.calls import Call, ChildRow, DeadLetterRow
from trio_tasks.redis_streams.keys import QueueKeys
from trio_tasks.redis_streams.replies import Reply
from trio_tasks.redis_streams.scripts import Script, all_scripts, script

LUA = Path(trio_tasks.redis_streams.__file__).parent / "lua"
SCRIPTS = all_scripts()
NAMES = [script.name for script in SCRIPTS]
KEYS = QueueKeys("tt", "q")
RECORD = Record(1, "work", b'{"secret":1}')
JOB = NewJob(id="a@1", queue="q", record=RECORD)
TOKEN = StartToken("q", "a@1", "w:1", "1-0", 0, 1)
SCHEDULE = ScheduleRecord(queue="q", name="nightly", definition=b"{}", template=RECORD)
REGISTRATION = Registration(
    queue="q", incarnation="w:1", consumer_id="w", host="h", events=["work"], lease_ms=1
)
OUTCOME = Outcome(token=TOKEN, event="work", attempt=1, verdict=Complete(), result=b'"secret"')
CALLS: list[Call[object]] = [
    calls.enqueue(KEYS, [JOB]),
    calls.enqueue(KEYS, [msgspec.structs.replace(JOB, priority=1)]),
    calls.step(KEYS, incarnation="w:1", ordinal=1, outcomes=[OUTCOME], want=1, lease_ms=1),
    calls.register(KEYS, REGISTRATION),
    calls.own(KEYS, incarnation="w:1", ordinal=1, have=[TOKEN]),
    calls.beat(KEYS, incarnation="w:1", lease_ms=1),
    calls.leave(KEYS, incarnation="w:1"),
    calls.debounce(KEYS, []),
    calls.log(KEYS, TOKEN, [b'"secret"'], max_lines=1),
    calls.declare(KEYS, SCHEDULE, replace=False),
    calls.schedules(KEYS),
    calls.due_schedules(KEYS),
    calls.tick(KEYS, SCHEDULE, next_at_ms=None, job=JOB),
    calls.remove_schedule(KEYS, "nightly"),
    calls.relay_read(KEYS),
    calls.relay_deliver(KEYS, [ChildRow("1-0", "q", "a@1", b"secret", "", late=False)]),
    calls.dead_letter(DeadLetterRow("1-0", "graveyard", {"data": b"secret"})),
    calls.relay_done(KEYS, ["1-0"]),
    calls.set_aside(KEYS, ["1-0"]),
    calls.cancel(KEYS, "a@1", number=None, reason="secret", retention_ms=1),
    calls.requeue(KEYS, "a@1", generation=0),
    calls.pause(KEYS, paused=True, number=1),
    calls.read(KEYS, ["a@1"]),
    calls.jobs(KEYS, JobState.DEAD, limit=1),
    calls.counts(KEYS),
    calls.time(KEYS),
]


def test_there_is_a_wrapper_for_each_script() -> None:
    assert {call.script.name for call in CALLS} == set(NAMES)


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_a_script_is_sent_whole_and_without_comments(script: Script) -> None:
    shebang, *lines = script.source.splitlines()

    assert re.fullmatch(r"#!lua( flags=(no-writes|allow-oom))?", shebang)
    assert not any(line.lstrip().startswith("--") or not line.strip() for line in lines)
    assert "@include" not in script.source
    assert script.sha == hashlib.sha1(script.source.encode()).hexdigest()


def scopes_of(function: str, source: str) -> list[tuple[int, ...]]:
    """The blocks in which a function of this name is made, each as the path to it."""
    found: list[tuple[int, ...]] = []
    path, blocks = [0], 0
    code = re.sub(r"'[^'\n]*'|--[^\n]*", "", source)
    for word in re.finditer(
        rf"local function {function}\b|\b(?:function|if|do|repeat|end|until)\b", code
    ):
        if word[0].startswith("local"):
            found.append(tuple(path))
        if word[0] in {"end", "until"}:
            path.pop()
        else:
            blocks += 1
            path.append(blocks)
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_no_block_makes_a_shared_part_that_is_there_already(script: Script) -> None:
    for function in set(re.findall(r"local function (\w+)", script.source)):
        scopes = scopes_of(function, script.source)
        for one, other in itertools.permutations(scopes, 2):
            assert other[: len(one)] != one, function


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_a_script_that_writes_a_state_has_the_table_of_legal_moves(script: Script) -> None:
    writes_a_state = re.search(r"'HSET', [^\n]*'s', ", script.source) is not None

    assert writes_a_state <= (f"local LEGAL = '{' '.join(legal_moves())}'" in script.source)


@pytest.mark.parametrize("path", sorted(LUA.glob("[!_]*.lua")), ids=lambda path: path.stem)
def test_a_script_says_what_it_gets_and_gives(path: Path) -> None:
    text = path.read_text()

    assert text.startswith("#!lua")
    assert "-- RETURNS  " in text
    if "flags=no-writes" not in text:
        assert "-- AGAIN    " in text
        assert "-- KEYS  " in text


@pytest.mark.parametrize("path", sorted(LUA.glob("*.lua")), ids=lambda path: path.stem)
def test_a_file_is_short(path: Path) -> None:
    lines = path.read_text().splitlines()

    assert len(lines) <= 130
    assert max(map(len, lines)) <= 100


def test_an_unknown_script_is_a_mistake_at_once() -> None:
    with pytest.raises(FileNotFoundError):
        script("nothing")


ODD: list[Reply] = [
    b"?",
    -7,
    [],
    [b"x"],
    [[1, 2], b"y"],
    {},
    0.5,
    [None, None],
    [[[]]],
    [b"", b"", b"", b""],
]


@pytest.mark.parametrize("call", CALLS, ids=[call.script.name for call in CALLS])
def test_a_reply_of_an_unknown_shape_is_our_fault_and_says_no_data(call: Call[object]) -> None:
    refused: list[InternalError] = []
    for reply in ODD:
        try:
            call.parse(reply)
        except InternalError as error:
            refused.append(error)

    assert len(refused) >= 6, "some of them suit some calls"
    for error in refused:
        assert call.script.name in str(error)
        assert error.__cause__ is None
        assert error.__suppress_context__


@pytest.mark.parametrize("call", CALLS, ids=[call.script.name for call in CALLS])
def test_what_a_call_carries_is_not_shown(call: Call[object]) -> None:
    assert "secret" not in repr(call)
    assert call.script.name in repr(call)


@pytest.mark.parametrize("call", CALLS, ids=[call.script.name for call in CALLS])
def test_a_call_names_its_keys_in_one_slot(call: Call[object]) -> None:
    if call.script.name == "dead_letter":
        assert call.keys == ("graveyard",)
        return
    assert call.keys == (KEYS.plain if call.script.name == "enqueue_plain" else KEYS.fixed)
    assert call.args[0] == KEYS.prefix


def test_outcomes_that_have_much_in_common_share_a_section() -> None:
    plain = [
        Outcome(
            token=StartToken("q", f"a@{n}", "w:1", f"17000000000{n:02}-0", 0, 1),
            event="work",
            attempt=1,
            verdict=Complete(),
            retention_ms=1000,
            attempts=4,
            result=b"1",
        )
        for n in range(20)
    ]
    call = calls.step(KEYS, incarnation="w:1", ordinal=1, outcomes=plain, want=0, lease_ms=1)

    assert list(call.args[6:15]) == [
        1, "C", "w:1", 0, 1000, 4, "1700000000000-0", "1700000000019-0", 20,
    ]  # fmt: skip
    assert len(call.args) == 15 + 3 * 20


@pytest.mark.parametrize(
    ("entries", "first", "last"),
    [
        (["1700000000000-9", "1700000000000-10"], "1700000000000-9", "1700000000000-10"),
        (["1700000000000-10", "1700000000000-9"], "1700000000000-9", "1700000000000-10"),
        (
            ["1700000000001-3", "1700000000000-100", "1700000000001-20", "1700000000000-99"],
            "1700000000000-99",
            "1700000000001-20",
        ),
        (["1700000000000-0"], "1700000000000-0", "1700000000000-0"),
    ],
)
def test_a_section_names_its_first_and_its_last_entry(
    entries: list[str], first: str, last: str
) -> None:
    outcomes = [
        msgspec.structs.replace(OUTCOME, token=msgspec.structs.replace(TOKEN, entry=entry))
        for entry in entries
    ]
    call = calls.step(KEYS, incarnation="w:1", ordinal=1, outcomes=outcomes, want=0, lease_ms=1)

    assert (first, last, len(entries)) in zip(call.args, call.args[1:], call.args[2:], strict=False)


def test_answers_are_put_back_into_the_order_of_the_outcomes() -> None:
    dead = Outcome(token=TOKEN, event="work", attempt=1, verdict=Die("x"))
    call = calls.step(
        KEYS,
        incarnation="w:1",
        ordinal=1,
        outcomes=[OUTCOME, dead, OUTCOME],
        want=0,
        lease_ms=1,
    )

    reply = call.parse([b"ASR", 0])

    assert [applied.value for applied in reply.applied] == ["applied", "repeated", "stale"]
    with pytest.raises(InternalError):
        call.parse([b"AS", 0])
