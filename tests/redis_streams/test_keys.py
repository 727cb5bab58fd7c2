"""Names of keys: all in the queue's slot, none with a brace of its own."""

from __future__ import annotations

import pytest

from trio_tasks.errors import ConfigurationError
from trio_tasks.redis_streams.keys import LEVELS, QueueKeys, dead_letter_key, queues_key


def test_every_key_of_a_queue_begins_with_namespace_and_hash_tag() -> None:
    keys = QueueKeys("tt", "mail")

    names = [*keys.fixed, keys.stream(0), keys.job("a@1"), keys.log("a@1")]
    names += [keys.debounce("d"), keys.schedule("nightly"), keys.aside]

    assert all(name.startswith("tt:{mail}:") for name in names)
    assert len(set(names)) == len(names)
    assert keys.prefix == "tt:{mail}:"


def test_the_keys_have_the_names_of_the_protocol() -> None:
    keys = QueueKeys("tt", "q")

    short = [name.removeprefix(keys.prefix) for name in keys.fixed]
    assert short == ["m", "c", "ci", "z", "w", "x", "cron", "out", "ev", "dlq"]
    assert keys.stream(9) == "tt:{q}:s:9"
    assert keys.job("id") == "tt:{q}:j:id"
    assert keys.log("id") == "tt:{q}:l:id"
    assert keys.debounce("digest") == "tt:{q}:d:digest"
    assert keys.schedule("nightly") == "tt:{q}:cr:nightly"
    assert keys.aside == "tt:{q}:aside"


def test_levels_are_served_from_the_highest_on() -> None:
    assert list(LEVELS) == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_names_that_would_change_the_slot_are_refused() -> None:
    for namespace, queue in (("t{t", "q"), ("tt", "q}x"), ("", "q"), ("tt", ""), ("tt", "a b")):
        with pytest.raises(ConfigurationError):
            QueueKeys(namespace, queue)


def test_the_set_of_queues_and_dead_letter_streams_lie_outside_of_any_queue() -> None:
    assert queues_key("tt") == "tt:queues"
    assert dead_letter_key("graveyard") == "graveyard"
    with pytest.raises(ConfigurationError):
        dead_letter_key("{x}")


def test_a_queues_keys_are_shown_by_its_names() -> None:
    assert repr(QueueKeys("tt", "q")) == "QueueKeys('tt', 'q')"
