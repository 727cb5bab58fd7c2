"""`processor/lease.py`: the numbers of leases, give-backs and parking."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from property_tests import strategies
from trio_tasks.processor.lease import (
    PARK_MS,
    UNCOUNTED_INTERRUPTIONS,
    beat_every_ms,
    give_back_counts,
    is_outage,
    must_stop,
    outage_after_ms,
    park_delay_ms,
    stop_after_ms,
)

leases = st.integers(500, strategies.TEN_YEARS_MS)


@given(leases)
def test_renewal_outage_and_stop_come_in_this_order_within_a_lease(lease_ms: int) -> None:
    assert 0 < beat_every_ms(lease_ms) < outage_after_ms(lease_ms)
    assert outage_after_ms(lease_ms) < stop_after_ms(lease_ms) < lease_ms
    assert 3 * beat_every_ms(lease_ms) <= lease_ms < 3 * (beat_every_ms(lease_ms) + 1)


@given(leases, strategies.instants_ms)
def test_handlers_go_on_when_one_renewal_was_lost(lease_ms: int, at_ms: int) -> None:
    assert not must_stop(at_ms, at_ms + 2 * beat_every_ms(lease_ms), lease_ms)


@given(leases, strategies.instants_ms)
def test_handlers_stop_a_third_of_a_lease_before_others_take_over(
    lease_ms: int, at_ms: int
) -> None:
    last_moment = next_stop = at_ms + stop_after_ms(lease_ms)
    assert not must_stop(at_ms, last_moment, lease_ms)
    assert must_stop(at_ms, next_stop + 1, lease_ms)
    assert at_ms + lease_ms - next_stop >= lease_ms // 3


@given(leases, strategies.instants_ms)
def test_one_silent_worker_is_no_outage_but_silence_of_all_for_half_a_lease_is(
    lease_ms: int, at_ms: int
) -> None:
    assert not is_outage(at_ms, at_ms + beat_every_ms(lease_ms), lease_ms)
    assert not is_outage(at_ms, at_ms + lease_ms // 2, lease_ms)
    assert is_outage(at_ms, at_ms + lease_ms // 2 + 1, lease_ms)


@given(leases, strategies.instants_ms)
def test_a_last_beat_that_lies_ahead_means_that_the_clock_was_set_back(
    lease_ms: int, at_ms: int
) -> None:
    assert not is_outage(at_ms + lease_ms // 2, at_ms, lease_ms)
    assert is_outage(at_ms + lease_ms // 2 + 1, at_ms, lease_ms)


@given(st.booleans(), st.integers(0, 30))
def test_an_attempt_counts_only_if_it_began_and_ten_had_been_given_back(
    began: bool, interruptions: int
) -> None:
    expected = began and interruptions >= 10
    assert give_back_counts(began=began, interruptions=interruptions) == expected
    assert UNCOUNTED_INTERRUPTIONS == 10


@given(strategies.instants_ms, st.integers(0, 10**7))
def test_parking_ends_exactly_with_the_grace_and_never_loops(since_ms: int, grace_ms: int) -> None:
    now_ms, parked = since_ms, 0
    while (delay_ms := park_delay_ms(now_ms, since_ms, grace_ms)) is not None:
        assert 0 < delay_ms <= 5_000
        now_ms += delay_ms
        parked += 1
    assert now_ms == since_ms + grace_ms
    assert parked == -(-grace_ms // PARK_MS)


@given(strategies.instants_ms, st.integers(0, 10**7), st.integers(0, 10**8))
def test_a_late_worker_parks_only_within_the_grace(
    since_ms: int, grace_ms: int, later_ms: int
) -> None:
    delay_ms = park_delay_ms(since_ms + later_ms, since_ms, grace_ms)
    assert (delay_ms is None) == (later_ms >= grace_ms)
