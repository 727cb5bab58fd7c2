"""The rules of the protocol, one switch each.

A rule that the protocol marks may have several halves, each of which does damage when it alone is
left out; then each has a switch. The text says what the rule is, not what goes wrong: that is
what the model shows. `LOST_JOINS_ANEW`, `ASKS_AS_PRESENT`, `LEADING_RECORDED` and
`RETRY_COUNTS` were not in the protocol before the model asked for them.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Rule"]


class Rule(Enum):
    """A rule; its value says it in words."""

    # Starting
    COUNTED = "every hand-out is a counted start, also one of a dead worker's job"
    ASK_FIRST = "the Processor is asked before the data are touched"
    # Connections
    OWN_FIRST = "the first request on a new connection is own: it gives back what is not in memory"
    OWN_UNCOUNTED = "what own gives back does not count"
    OWN_FENCES = "a take of an older connection than the last one that sent own starts nothing"
    OWN_NAMES_LOST = "own names the tokens in memory that are no longer ours"
    LOST_JOINS_ANEW = (
        "an incarnation whose starts the server has forgotten ends: their tokens come again"
    )
    TAKE_NEEDS_MEMBER = "only a member may take"
    BEAT_RENEWS_MEMBERS = "a beat renews members and adds none"
    FRESH_NAME = "whoever joins anew does so under a fresh name"
    LEFT_GIVEN_BACK = "what a take brings to an incarnation that was left is given back, not begun"
    TWO_THIRDS = "two thirds of a lease after the last good renewal no handler begins or goes on"
    GIVEN_UP_RELEASED = "a job whose handler was cancelled for want of a lease is given back"
    OUTAGE = "after half a lease in which nobody was heard all leases begin anew"
    OUTAGE_NOT_A_THIRD = "half a lease, and not a third"
    OUTAGE_NOT_TWO_THIRDS = "half a lease, and not two thirds"
    # Starting
    RETRY_COUNTS = "a retry uses an attempt, though no handler began"
    LEADING_LIFE = "a leading debounce key names a life of a job, not only its id"
    LEADING_RECORDED = "the record of a job that gets a leading key names the key"
    ASKS_AS_PRESENT = "a start that is superseded when it asks for its debounce key does not begin"
    REPARK = "after the grace a job that somebody serves is parked for five seconds from now"
    # Finishing
    FENCE = "an outcome is applied only while its start is the present one"
    FENCE_COUNT = "which start it is, its count of deliveries tells, not only its owner"
    TOMBSTONE = "the record of an ended job stays as its tombstone"
    CANCEL_KEPT = "a request to cancel is answered to each beat until the outcome removes it"
    REQUEUE_GENERATION = "a requeue names the generation that it has read"
    LEAVE_WAITS = "a worker leaves when no take of its is under way"
    # Identity
    MINTED_ONCE = "a minted id never gets a new life"
    NUMBERS_KEPT = "a job remembers the emit number that made it"
    ATTACHED_KEPT = "a job remembers the emit numbers that were attached to it"
    NUMBERS_INHERITED = "a new life inherits the emit numbers of the former ones"
    CANCEL_NUMBER = "a cancel from a ref acts only on the life that its number belongs to"
    PAUSE_NUMBER = "pause and resume carry a number above the last one that was applied"
    # Children
    CHILD_NUMBER = "the emit number of a child travels in the outcome"
    CHILD_ID = "the id of a child is minted when it is emitted, and travels too"
    ROW_AFTER_TARGET = "a row of the outbox leaves after its target has answered"
    LATE_DEAD = "a row that is older than the time of a tombstone allows arrives as a dead job"
    LATE_TO_TARGET = "a row that is late is delivered all the same"
    # Time and schedules
    AFTER_LAST = "the next occurrence comes after now and after the last one"
    CRON_CAS = "a tick is refused unless the occurrence that it has read is still the next one"
    CRON_NOT_EARLY = "a tick is refused before its occurrence is due by the server's clock"
    DECLARE_KEEPS = "declaring an unchanged schedule keeps its instant, though overdue"
    TRAILING_KEPT = "a trailing key goes on naming the last job after that was promoted"
    TRAILING_CHECKED = "a job whose trailing key names another is skipped at its start"
