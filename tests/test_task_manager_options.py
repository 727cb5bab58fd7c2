"""A wrong option is refused when the manager is made, before anything is opened."""

from __future__ import annotations

from typing import Any

import pytest

from trio_tasks import ConfigurationError, TaskManager


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"lease": 0.1}, "lease"),
        ({"grace": -1}, "grace"),
        ({"retention": -1}, "retention"),
        ({"namespace": "a{b}"}, "namespace"),
        ({"consumer_id": ""}, "consumer_id"),
        ({"max_data_bytes": 0}, "max_data_bytes"),
        ({"unknown_event_grace": "60"}, "unknown_event_grace"),
        ({"processor": {"retries": 3}}, "retry"),
        ({"processor": {"retry": {"retry_delay": 3}}}, "'delay'"),
        ({"ctx": 1, "lifespan": lambda: None}, "lifespan"),
        ({"lifespan": 3}, "lifespan"),
        ({"db": "http://localhost"}, "db"),
        ({"streamdb": 5, "db": "redis://localhost"}, "streamdb"),
    ],
)
def test_a_wrong_option_is_refused_when_the_manager_is_made(
    options: dict[str, Any], word: str
) -> None:
    db = options.pop("db", "memory://")
    with pytest.raises(ConfigurationError, match=word):
        TaskManager(db, **options)
