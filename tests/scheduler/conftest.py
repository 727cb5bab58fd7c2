"""As in tests/consumer: on Trio under a virtual clock."""

from __future__ import annotations

from tests.consumer.conftest import (
    anyio_backend,
    broker,
    calls,
    pytest_generate_tests,
    pytest_itemcollected,
    remote,
)

__all__ = [
    "anyio_backend",
    "broker",
    "calls",
    "pytest_generate_tests",
    "pytest_itemcollected",
    "remote",
]
