"""The map at the head of the package shows all of it."""

from __future__ import annotations

import re
from pathlib import Path

from trio_tasks import redis_streams


def test_each_module_has_its_place_in_the_file_map() -> None:
    assert redis_streams.__doc__ is not None
    shown = re.findall(r"(?:^| )(\w+)(?:\.py|/) ", redis_streams.__doc__, re.MULTILINE)
    here = {path.stem for path in Path(redis_streams.__path__[0]).iterdir()}
    assert sorted(shown) == sorted(here - {"__init__", "__pycache__", "lua"})
