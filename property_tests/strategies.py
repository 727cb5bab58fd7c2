"""What jobs, failures, options and data can look like: shared by all property tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import cast

from hypothesis import strategies as st

from trio_tasks.job import JobState
from trio_tasks.options import DebouncePolicy, Duration, Edge, ProcessorOptions, RetryPolicy
from trio_tasks.processor.facts import JobFacts
from trio_tasks.processor.inputs import (
    AskedDeadLetter,
    AskedDiscard,
    AskedRetry,
    BadData,
    BadResult,
    CancelRequested,
    DebounceAnswered,
    Failed,
    HandedOut,
    Input,
    Interrupted,
    LeaseLost,
    OutcomeRefused,
    Succeeded,
    TimedOut,
)
from trio_tasks.processor.processor import Processor
from trio_tasks.processor.signals import DeadLetter, Discard, RetryLater

TEN_YEARS_MS = 10 * 366 * 86_400_000

# --- time and luck ----------------------------------------------------------------------------

instants_ms = st.integers(0, 2**45)
durations_ms = st.integers(0, TEN_YEARS_MS)
luck = st.floats(0, 1, exclude_max=True)
short_delays_ms = st.integers(0, 20_000)

# --- names, texts, data -----------------------------------------------------------------------

names = st.text("abcdefgh.:-_AZ09", min_size=1, max_size=12)
texts = st.text(st.characters(), max_size=40)
one_byte = st.characters(min_codepoint=1, max_codepoint=127)
wild_texts = st.text(
    st.characters(categories=("L", "Cs", "So", "Cc", "Zs")), max_size=3000
)  # with lone surrogates, and characters of one to four bytes

json_values: st.SearchStrategy[object] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # A lone surrogate is no JSON text.
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)


def as_json(value: object, order: Callable[[list[str]], Sequence[str]] = sorted) -> bytes:
    """JSON bytes of a value whose objects have their members in the given order."""

    def arranged(part: object) -> object:
        if isinstance(part, dict):
            members = cast("dict[str, object]", part)
            return {key: arranged(members[key]) for key in order(list(members))}
        if isinstance(part, list):
            return [arranged(element) for element in cast("list[object]", part)]
        return part

    return json.dumps(arranged(value)).encode()


# --- exceptions -------------------------------------------------------------------------------

FAILURES: tuple[type[BaseException], ...] = (
    ValueError,
    KeyError,
    OSError,
    ConnectionError,
    ConnectionResetError,
    TimeoutError,
    SystemExit,
    KeyboardInterrupt,
)

KINDS: tuple[type[BaseException], ...] = (
    *FAILURES,
    Exception,
    BaseException,
    LookupError,
    ExceptionGroup,
    BaseExceptionGroup,
)
"""What people may write into `retry_on` and `give_up_on`."""


@st.composite
def failures(draw: st.DrawFn) -> BaseException:
    """An exception that is neither a group nor a signal."""
    return draw(st.sampled_from(FAILURES))(draw(texts))


retry_laters = st.builds(RetryLater, st.none() | st.integers(0, 10_000).map(float))
dead_letters = st.builds(DeadLetter, texts)
discards = st.builds(Discard, texts)
signals: st.SearchStrategy[BaseException] = retry_laters | dead_letters | discards


def grouped(
    members: st.SearchStrategy[BaseException],
) -> st.SearchStrategy[BaseException]:
    """Members alone, or in groups of one to three, nested."""
    return st.recursive(
        members,
        lambda inner: st.builds(
            BaseExceptionGroup, st.just("group"), st.lists(inner, min_size=1, max_size=3)
        ),
        max_leaves=5,
    )


exceptions: st.SearchStrategy[BaseException] = grouped(failures() | signals)


@st.composite
def wrapped(draw: st.DrawFn, members: st.SearchStrategy[BaseException]) -> BaseException:
    """A member inside any number of groups of one."""
    error = draw(members)
    for _ in range(draw(st.integers(0, 4))):
        error = BaseExceptionGroup("group", [error])
    return error


def members_of(error: BaseException) -> tuple[BaseException, ...]:
    """What a group holds directly; of another exception: nothing."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions
    return ()


def flat(error: BaseException) -> list[BaseException]:
    """The leaves of an exception, found by recursion (the engine does it with a stack)."""
    members = members_of(error)
    return [leaf for member in members for leaf in flat(member)] if members else [error]


# --- options ----------------------------------------------------------------------------------


def _always(_error: BaseException, _attempt: int) -> bool:
    return True


def _not_after_the_second(_error: BaseException, attempt: int) -> bool:
    return attempt < 2


def _no(_error: BaseException, _attempt: int) -> bool:
    return False


def _broken(_error: BaseException, _attempt: int) -> bool:
    raise RuntimeError("should_retry is broken")


_ANSWERS: dict[object, bool | None] = {_always: True, _no: False, _broken: None}


def answer_of(policy: RetryPolicy, attempt: int) -> bool | None:
    """What `should_retry` of a policy made here says; `None`: it raises."""
    return _ANSWERS.get(policy.should_retry, attempt < 2)


def as_ms(duration: Duration) -> int:
    """Milliseconds of a duration that was given in seconds."""
    assert isinstance(duration, (int, float))
    return round(duration * 1000)


@st.composite
def retry_policies(
    draw: st.DrawFn, *, most_retries: int = 20, most_ms: int = TEN_YEARS_MS
) -> RetryPolicy:
    delay_ms = draw(st.integers(0, most_ms) | st.integers(0, min(most_ms, 10_000)))
    kinds = st.lists(st.sampled_from(KINDS), max_size=2).map(tuple)
    return RetryPolicy(
        max_retries=draw(st.integers(0, most_retries)),
        delay=delay_ms / 1000,
        multiplier=draw(st.floats(1, 4) | st.floats(1, 1e308)),
        max_delay=draw(st.integers(delay_ms, most_ms)) / 1000,
        jitter=draw(st.floats(0, 1)),
        retry_on=draw(st.just((Exception,)) | kinds),
        give_up_on=draw(st.just(()) | kinds),
        should_retry=draw(st.sampled_from([_always, _always, _no, _broken, _not_after_the_second])),
    )


edges: st.SearchStrategy[Edge] = st.sampled_from(["leading", "trailing"])


@st.composite
def debounce_policies(draw: st.DrawFn, *, functions: bool = True) -> DebouncePolicy:
    """Policies without a key, with a string, and (`functions`) with a function of the job."""
    keys: list[str | Callable[[object], str] | None] = [None, "one", "two"]
    if functions:
        keys.append(_by_event)
    return DebouncePolicy(
        window=draw(st.integers(1, 100_000)) / 1000,
        key=draw(st.sampled_from(keys)),
        edge=draw(edges),
    )


def _by_event(job: object) -> str:
    return f"event {getattr(job, 'name', None)}"


@st.composite
def processors(draw: st.DrawFn, *, most_retries: int = 20) -> Processor:
    """Processors, some with a handler's own retry policy or attempts."""
    own = draw(st.sampled_from(["nothing", "retry", "attempts"]))
    return Processor(
        ProcessorOptions(
            retry=draw(retry_policies(most_retries=most_retries)),
            ignore_config_errors=draw(st.booleans()),
        ),
        retry=draw(retry_policies(most_retries=most_retries)) if own == "retry" else None,
        attempts=draw(st.integers(1, most_retries + 1)) if own == "attempts" else None,
        unknown_event_grace_ms=draw(st.integers(0, 120_000)),
    )


# --- jobs and what happens to them ------------------------------------------------------------

job_facts = st.builds(
    JobFacts,
    id=names,
    queue=names,
    event=names,
    state=st.just(JobState.RUNNING),
    attempt=st.integers(1, 25),
    attempts=st.none() | st.integers(1, 25),
    retry_delay_ms=st.none() | durations_ms,
    deadline_at_ms=st.none() | instants_ms,
    interruptions=st.integers(0, 15),
    unknown_since_ms=st.none() | instants_ms,
)

hand_outs = st.builds(
    HandedOut,
    known=st.booleans(),
    readable=st.booleans(),
    supported=st.booleans(),
    cancel_reason=st.none() | texts,
)

outcomes: st.SearchStrategy[Input] = st.one_of(
    st.just(Succeeded()),
    st.builds(Failed, grouped(failures())),
    st.builds(TimedOut, st.integers(1, 10**7)),
    st.builds(AskedRetry, st.none() | short_delays_ms),
    st.builds(AskedDeadLetter, texts),
    st.builds(AskedDiscard, texts),
    st.just(BadData()),
    st.just(BadResult()),
    st.builds(Interrupted, st.booleans()),
    st.builds(LeaseLost, st.booleans()),
    st.builds(CancelRequested, texts),
    st.just(OutcomeRefused()),
)
"""How a start can end."""

inputs: st.SearchStrategy[Input] = st.one_of(
    outcomes, hand_outs, st.builds(DebounceAnswered, st.none() | names)
)
