"""Exception groups, taken apart.

Trio wraps whatever leaves a nursery in a group, mostly a group of one. To a user that is one
exception, so a group that holds one exception, at any depth, counts as that one everywhere: for
the control signals, for the retry rules and in `JobInfo.error`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

__all__ = ["leaves", "unwrapped"]


def unwrapped(error: BaseException) -> BaseException:
    """The exception itself, or the one that a group holds, through any number of groups.

    A group that holds several is returned as it is, without the groups of one around it.
    """
    while len(members := _members(error)) == 1:
        error = members[0]
    return error


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group that are no groups, in order; of another exception: itself."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        error = waiting.pop()
        if members := _members(error):
            waiting.extend(reversed(members))
        else:
            found.append(error)
    return found


def _members(error: BaseException) -> Sequence[BaseException]:
    """What a group holds directly, at least one; of another exception: nothing."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions
    return ()
