"""Says which run this is, so that it can be repeated: `--hypothesis-seed` and `EXAMPLES`."""

from __future__ import annotations

import pytest
from hypothesis import settings

from property_tests.profile import freeze_heap, load_profile
from tests import servers

load_profile()


def pytest_report_header(config: pytest.Config) -> str:
    """One line at the head of the run; a failure also prints a blob that reproduces it."""
    seed: object = config.getoption("--hypothesis-seed", default=None)
    seed = "random (give --hypothesis-seed)" if seed is None else seed
    return f"property tests: {settings().max_examples} examples each, seed {seed}"


def pytest_collection_finish(session: pytest.Session) -> None:
    freeze_heap()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Undo what the hook of this name in tests/conftest.py has set for the test before."""
    servers.allowed = True
