"""Waiting for work in any number of queues, with one blocking command on one connection.

Theory of operation
-------------------
`ns:{queue}:w` is a list with at most one token, pushed by whatever makes a job startable. The loop
in `run` pops from the lists of those queues for which somebody waits here, and of no others: a
token that this process takes away wakes nobody else. Each token wakes one waiter.

The set of queues changes all the time, and a blocked `BLPOP` must never be abandoned, as the
token that it pops would be lost with it. So

* if a queue *joins* while the command is blocked, the loop is called back through its *bell*, a
  list of this process alone that is always among the keys. The bell stays rung until it is heard,
  so it does not matter which of the two commands reaches the server first;
* if a queue *leaves*, the command stays as it is. A token that it then pops for nobody is given to
  whoever waits for the queue by now, or pushed back.

A waiter that is cancelled costs nothing: a token that was already its own is handed on in the same
way. A token can be lost only with the connection, or with this process; then the engine's look
once a second finds the work.

A waiter may come *armed*, with a script to be run in the moment in which it is woken or its time
is over. If it is the only one then, the script goes out in one write with the blocking command,
which spares the round trip between the token and the jobs. What it has done when its answer does
not come, because the waiter was cancelled or the connection broke, is its owner's affair. Not where
another queue was waited for just before: who joins ends the wait of who is armed, who joins again
at once, and so the two would go on ringing for each other as fast as they can.

A list of another type makes the server refuse the whole command, whichever queue it belongs to. It
is named (misplaced.py) and *shunned*: left out, and looked at again once a second, so that the
other queues' workers are woken as ever.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any, Final, TypeVar, cast

import anyio
from anyio.lowlevel import checkpoint

from trio_tasks.control_c import protected
from trio_tasks.environment import loop_time
from trio_tasks.errors import BrokerError, BrokerUnavailableError
from trio_tasks.redis_streams.asking import Requests
from trio_tasks.redis_streams.keys import QueueKeys
from trio_tasks.redis_streams.link import Link
from trio_tasks.redis_streams.misplaced import Naming, is_wrong_type
from trio_tasks.redis_streams.scripts import Call
from trio_tasks.redis_streams.wire import Command, Reply

__all__ = ["Wakes"]

T = TypeVar("T")

log = logging.getLogger("trio_tasks.broker")

_SHORTEST: Final = 0.001  # 0 would be for ever
_BLOCKS: Final = 5.0  # seconds; as long may a token be taken away for a queue that has left
_AFTER_REFUSAL: Final = 1.0
_STEPS_TO_A_TAKE: Final = 3  # of the event loop: the waiter, who it wakes, and one more
_BELL_LIVES_MS: Final = 60_000


class _Waiter:
    __slots__ = ("answer", "by", "call", "called", "sent", "woken")

    def __init__(self, by: float, call: Call[Any] | None = None) -> None:
        self.by = by
        self.call = call
        self.sent = False  # the call is under way
        self.answer: object = None  # its answer, or why there is none
        self.called = anyio.Event()
        self.woken = False

    def wake(self) -> None:
        self.woken = True
        self.called.set()


class Wakes:
    """The waiters of a process, and the tokens that wake them."""

    def __init__(
        self,
        *,
        wake: Link,
        cmd: Requests,
        naming: Naming,
        keys: Callable[[str], QueueKeys],
        bell: str | None,
    ) -> None:
        """Nothing is waited for before `run`.

        Args:
            wake: the connection that blocks.
            cmd: another one to the same keyspace.
            naming: says which key is misplaced.
            keys: the keys of a queue.
            bell: the name of a list that nobody else uses; `None` where one queue is all that is
                ever waited for.
        """
        self._wake = wake
        self._cmd = cmd
        self._naming = naming
        self._keys = keys
        self._bell = bell
        self._lines: dict[str, deque[_Waiter]] = {}
        self._popping: frozenset[str] = frozenset()
        self._several_until = -inf  # so long nobody is armed
        self._somebody = anyio.Event()
        self._errand = anyio.Event()
        self._ring = False
        self._returns: set[str] = set()
        self._shunned: set[str] = set()

    async def wait(self, queue: str, timeout: float) -> bool:
        """Wait for a token, at most `timeout` seconds; whether there may be work now.

        While the server is out of reach it waits for that instead, however long.
        """
        return await self._wait(queue, timeout, _Waiter(loop_time() + timeout))

    async def wait_and_call(self, queue: str, timeout: float, call: Call[T]) -> T | None:
        """Wait as `wait` does, and run a script then; `None`: it was not sent, nor will it be.

        Cancelled, or failed: it may have been run, or may be run within `timeout`.

        Raises:
            BrokerError: what it came to is not known, or it was refused.
        """
        waiter = _Waiter(loop_time() + timeout, call)
        await self._wait(queue, timeout, waiter)
        if isinstance(waiter.answer, BrokerError):
            raise waiter.answer
        return cast("T | None", waiter.answer)

    async def _wait(self, queue: str, timeout: float, waiter: _Waiter) -> bool:
        self._lines.setdefault(queue, deque()).append(waiter)
        if len(self._lines) > 1:
            self._several_until = loop_time() + _BLOCKS
        if queue not in self._popping:
            self._somebody.set()
            if self._popping and self._bell is not None and queue not in self._shunned:
                self._ring = True
                self._errand.set()
        try:
            with anyio.move_on_after(timeout):
                await waiter.called.wait()
            if waiter.sent:
                await waiter.called.wait()  # its time is over on the server, too
            woken = waiter.woken
            if waiter.answer is None and not self._cmd.connected:
                await self._until_reachable()
                return True
        except BaseException:
            if waiter.woken and not waiter.sent:
                self._hand_over(queue)
            raise
        finally:
            if not waiter.woken:
                self._step_out(queue, waiter)
        return woken

    async def _until_reachable(self) -> None:
        while True:
            try:
                return await self._cmd.connected_by(loop_time() + self._cmd.timeout)
            except BrokerUnavailableError:
                if self._cmd.over:
                    raise

    def _step_out(self, queue: str, waiter: _Waiter) -> None:
        line = self._lines[queue]
        line.remove(waiter)
        if not line:
            del self._lines[queue]

    def _hand_over(self, queue: str) -> None:
        """Wake somebody with a token of the queue, or send it back."""
        waiter = next((each for each in self._lines.get(queue, ()) if not each.sent), None)
        if waiter is None:
            self._returns.add(queue)
            self._errand.set()
            return
        self._step_out(queue, waiter)
        waiter.wake()

    async def run(self) -> None:
        """Serve the waiters until cancelled."""
        reported = ""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(protected(self._run_errands))
            while True:
                if not self._lines:
                    self._somebody = anyio.Event()
                    await self._somebody.wait()
                try:
                    await self._pop_one()
                except BrokerUnavailableError:
                    continue  # the link knows how to wait
                except BrokerError as error:
                    if str(error) != reported:
                        reported = str(error)
                        log.warning("workers cannot be woken, and look once a second: %s", error)
                    await anyio.sleep(_AFTER_REFUSAL)

    async def _pop_one(self) -> None:
        await self._wake.connected_by(loop_time() + self._wake.timeout)
        if self._shunned:
            await self._shun(self._shunned)
        lists = {
            self._keys(queue).wake.encode(): queue
            for queue in self._lines
            if queue not in self._shunned
        }
        if not lists:
            if self._lines:
                await anyio.sleep(_AFTER_REFUSAL)
            return
        names = [*lists] if self._bell is None else [self._bell, *lists]
        self._popping = frozenset(lists.values())
        try:
            reply = await self._pop(names)
        except BrokerError as error:
            if not is_wrong_type(error):
                raise
            if not await self._shun(lists.values()):
                await anyio.sleep(_AFTER_REFUSAL)  # it has gone, or it is not known
            return
        finally:
            self._popping = frozenset()
        if isinstance(reply, list):
            queue = lists.get(cast("bytes", reply[0]))
            if queue is not None:
                self._hand_over(queue)
                await self._let_take()

    async def _let_take(self) -> None:
        """Let what was woken ask for its jobs first: a wait for many queues keeps a server busy."""
        for _ in range(_STEPS_TO_A_TAKE):
            await checkpoint()

    async def _pop(self, names: Sequence[str | bytes]) -> Reply:
        if len(self._popping) == len(self._lines) == 1 and loop_time() >= self._several_until:
            ((queue, line),) = self._lines.items()
            if line[0].call is not None:
                return await self._pop_and_call(names, queue, line[0], line[0].call)
        blocks = _AFTER_REFUSAL if self._shunned else _BLOCKS
        (reply,) = await self._wake.request(("BLPOP", *names, blocks), blocks=blocks)
        return reply

    async def _pop_and_call(
        self, names: Sequence[str | bytes], queue: str, waiter: _Waiter, call: Call[Any]
    ) -> Reply:
        blocks = min(max(waiter.by - loop_time(), _SHORTEST), _BLOCKS)
        waiter.sent = True
        try:
            reply, waiter.answer = await self._wake.request_and_call(
                ("BLPOP", *names, f"{blocks:.3f}"), call, blocks=blocks
            )
        except BrokerError as error:
            waiter.answer = error
            raise
        finally:
            waits = waiter in self._lines.get(queue, ())
            if waits:
                self._step_out(queue, waiter)
                waiter.wake()
        if isinstance(reply, BrokerError):
            raise reply
        # A token that it was woken by is used up, unless it has gone.
        return None if waits else reply

    async def _shun(self, queues: Iterable[str]) -> bool:
        """Find out which of the queues have a list of another type; whether any has."""
        found = False
        for queue in list(queues):
            wake = self._keys(queue).wake
            try:
                if wake in await self._naming.misplaced(wake):
                    self._shunned.add(queue)
                    found = True
                else:
                    self._shunned.discard(queue)
            except BrokerError:
                pass  # it is not known
        return found

    async def _run_errands(self) -> None:
        """Ring the bell and push tokens back, on the connection that does not block."""
        while True:
            await self._errand.wait()
            self._errand = anyio.Event()
            errands: list[Command] = []
            if self._ring and self._bell is not None:
                errands += _push_one(self._bell)
                errands.append(("PEXPIRE", self._bell, _BELL_LIVES_MS))
            for queue in self._returns:
                errands += _push_one(self._keys(queue).wake)
            self._ring, self._returns = False, set()
            try:
                await self._cmd.request(*errands)
            except BrokerError as error:
                # A hint was lost. The engine looks once a second.
                log.debug("wake-ups were not passed on: %s", error)


def _push_one(name: str) -> tuple[Command, Command]:
    """Make a list hold one token, whether or not it held one before."""
    return ("LPUSH", name, "1"), ("LTRIM", name, 0, 0)
