"""`processor/debounce.py`: which jobs are the same, and which window they ask for."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from hypothesis import assume, given
from hypothesis import strategies as st

from property_tests import strategies
from property_tests.strategies import as_json, as_ms
from trio_tasks.options import DebouncePolicy, Edge, ProcessorOptions
from trio_tasks.processor.debounce import Carried, NotDebounced, Window, digest_of
from trio_tasks.processor.processor import Processor


class Seen(NamedTuple):
    """What a key function may look at."""

    name: str
    queue: str
    data: object


class Parts(NamedTuple):
    """All that a digest is made of."""

    edge: Edge
    queue: str
    event: str
    key: str | None
    data: bytes


jobs = st.builds(Seen, strategies.names, strategies.names, st.none())
data_bytes = strategies.json_values.map(as_json)
own_policies = st.none() | strategies.debounce_policies()
asked = st.none() | st.text("abc", max_size=3) | strategies.debounce_policies(functions=False)
parts = st.builds(
    Parts,
    strategies.edges,
    st.sampled_from(["a", "b", "ab"]),
    st.sampled_from(["a", "b", "ab"]),
    st.sampled_from([None, "", "a", "b", "1", "null"]),
    st.sampled_from([b"1", b"null", b'"a"', b"a", b"b", b""]),
)


def processor_with(own: DebouncePolicy | None, general: DebouncePolicy | None) -> Processor:
    return Processor(ProcessorOptions(debounce=general), debounce=own)


@given(strategies.json_values, strategies.edges, st.randoms(use_true_random=False))
def test_equal_data_have_one_digest_in_whatever_order_their_members_stand(
    value: object, edge: Edge, random: Random
) -> None:
    one = as_json(value)
    other = as_json(value, lambda keys: random.sample(keys, len(keys)))
    assert digest_of(edge, "q", "e", None, one) == digest_of(edge, "q", "e", None, other)


@given(strategies.json_values, strategies.json_values)
def test_different_data_have_different_digests(value: object, other: object) -> None:
    one, two = as_json(value), as_json(other)
    assume(one != two)
    assert digest_of("leading", "q", "e", None, one) != digest_of("leading", "q", "e", None, two)


@given(parts, parts)
def test_a_digest_tells_edge_queue_event_and_key_apart(one: Parts, two: Parts) -> None:
    same = one[:4] == two[:4] and (one.key is not None or one.data == two.data)
    assert (digest_of(*one) == digest_of(*two)) == same


@given(st.binary(max_size=50), st.none() | strategies.wild_texts)
def test_a_digest_can_be_made_of_anything(data: bytes, key: str | None) -> None:
    found = digest_of("trailing", "q", "e", key, data)
    assert len(found) == 32
    assert int(found, 16) >= 0


@given(asked, own_policies, own_policies, jobs, data_bytes, st.booleans())
def test_window_and_key_come_from_emit_then_handler_then_processor(
    wanted: DebouncePolicy | str | None,
    own: DebouncePolicy | None,
    general: DebouncePolicy | None,
    job: Seen,
    data: bytes,
    scheduled: bool,
) -> None:
    base = own or (None if scheduled else general)
    policy = wanted if isinstance(wanted, DebouncePolicy) else base
    key = wanted.key if isinstance(wanted, DebouncePolicy) else wanted
    if key is None and base is not None:
        key = base.key
    if callable(key):
        key = key(job)

    processor = processor_with(own, general)
    carried, carried_key = processor.debounce_at_emit(
        wanted, job=job, data=data, scheduled=scheduled
    )
    # A trailing window is complete when the job is emitted; a leading one may be open.
    if policy is not None and policy.edge == "trailing":
        assert carried is not None
        assert carried.digest is not None
    found = processor.debounce_at_start(
        carried, carried_key, job=job, data=data, scheduled=scheduled
    )
    if policy is None:
        assert found is (NotDebounced.UNASKED if wanted is None else NotDebounced.NO_WINDOW)
    else:
        window_ms = as_ms(policy.window)
        digest = digest_of(policy.edge, job.queue, job.name, key, data)
        assert found == Window(policy.edge, window_ms, digest)


@given(strategies.debounce_policies(), jobs, data_bytes, st.none() | st.text(max_size=3))
def test_a_trailing_policy_that_the_emitter_did_not_know_is_reported(
    policy: DebouncePolicy, job: Seen, data: bytes, key: str | None
) -> None:
    emitter, runner = Processor(), processor_with(policy, None)
    carried, carried_key = emitter.debounce_at_emit(key, job=job, data=data)
    assert (carried, carried_key) == (None, key)
    found = runner.debounce_at_start(carried, carried_key, job=job, data=data)
    assert (found is NotDebounced.TOO_LATE) == (policy.edge == "trailing")


@given(asked, own_policies, own_policies, jobs, data_bytes)
def test_a_requeued_job_asks_for_no_window(
    wanted: DebouncePolicy | str | None,
    own: DebouncePolicy | None,
    general: DebouncePolicy | None,
    job: Seen,
    data: bytes,
) -> None:
    processor = processor_with(own, general)
    carried, key = processor.debounce_at_emit(wanted, job=job, data=data)
    found = processor.debounce_at_start(carried, key, job=job, data=data, requeued=True)
    assert found is NotDebounced.REQUEUED


@given(strategies.debounce_policies(), jobs, data_bytes)
def test_what_a_job_carries_outlasts_a_change_of_policy(
    policy: DebouncePolicy, job: Seen, data: bytes
) -> None:
    carried = Carried("trailing", 5, "f" * 32)
    found = processor_with(policy, None).debounce_at_start(carried, None, job=job, data=data)
    assert found == Window("trailing", 5, "f" * 32)
