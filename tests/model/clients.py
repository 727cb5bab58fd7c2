"""What clients do: they emit, cancel, pause, requeue, and relay."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.actors import (
    CLIENT,
    Answer,
    Client,
    Late,
    Pause,
    RelayDeliver,
    RelayDone,
    RelayRead,
    Request,
    Requeue,
    What,
    World,
)
from tests.model.explore import Step
from tests.model.rules import Rule
from tests.model.service import Service
from tests.model.store import New, Server
from tests.model.words import answered, said

__all__ = ["Clients"]

TOO_LATE_MS = 50 * 60_000


class Clients:
    """The steps of clients in worlds of one setting."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def steps(self, state: World, index: int) -> Iterator[Step[World]]:
        """All steps of one client, in a fixed order."""
        client = state.clients[index]
        name, request = f"client {index + 1}", client.request
        if request is None:
            yield from self._calls(state, index, client)
            return
        if request.answer is None:
            after, answer = self._service.applied(state, CLIENT, request.what)
            done = client._replace(request=request._replace(answer=answer))
            yield Step(
                f"server: {name}'s {said(request.what)} → {answered(answer)}",
                after.with_client(index, done),
            )
        else:
            yield Step(
                f"{name} reads the answer to {said(request.what)}",
                self._client_reads(state, index, client, request.what, request.answer),
            )
        if state.may("hang up"):
            after = state.spent("hang up")
            if request.answer is None and self._service.setting.late:
                late = (*state.late, Late(CLIENT, request.what))
                after = after._replace(late=tuple(sorted(late, key=repr)))
            gone = client._replace(request=None, unknown=True)
            yield Step(
                f"the connection of {name} breaks", after.with_client(index, gone), fault=True
            )

    def _calls(self, state: World, index: int, client: Client) -> Iterator[Step[World]]:
        """The next call of a program is sent; one whose answer was lost again, or never more."""
        name, program = f"client {index + 1}", self._service.setting.programs[index]
        if client.at == len(program):
            return
        server, call = self._service.thaw(state), program[client.at]
        past = Client(client.at + 1)
        match call:
            case Requeue(job=job):
                record = server.jobs.get(job)
                if record is None or record.s != "z":
                    if record is not None and record.s in "csx":
                        yield Step(f"{name} sees no dead {job}", state.with_client(index, past))
                    return
                call = call._replace(generation=record.gen)
            case Pause():
                call = call._replace(number=server.pause_number + 1)
            case RelayRead():
                if not server.out:
                    return
                call, state = self._relay(state, server)
            case _:
                pass
        sent = client._replace(request=Request(call), unknown=False)
        again = " again" if client.unknown else ""
        yield Step(f"{name} sends {said(call)}{again}", state.with_client(index, sent))
        if client.unknown and not isinstance(program[client.at], RelayRead):
            yield Step(f"{name} gives up", state.with_client(index, past))

    def _relay(self, state: World, server: Server) -> tuple[What, World]:
        """The first thing that is done about the oldest row of the outbox."""
        row = server.out[0]
        child = row.child
        if child.id.endswith("@"):  # only without `Rule.CHILD_ID`
            child = child._replace(id=f"{child.id}{state.minted}")
            state = state._replace(minted=state.minted + 1)
        late = server.now - row.written > TOO_LATE_MS
        if late and not self._service.keeps(Rule.LATE_TO_TARGET):
            return RelayDone(row), state
        deliver = RelayDeliver(row, child, late and self._service.keeps(Rule.LATE_DEAD))
        return (deliver if self._service.keeps(Rule.ROW_AFTER_TARGET) else RelayDone(row)), state

    def _client_reads(
        self, state: World, index: int, client: Client, what: What, answer: Answer
    ) -> World:
        past = Client(client.at + 1)
        match what:
            case New():
                acked = self._service.chronicle.acknowledged(state, what)
                return acked.with_client(index, past)
            case RelayDeliver(row=row):
                last = self._service.keeps(Rule.ROW_AFTER_TARGET)
                done = client._replace(request=Request(RelayDone(row)) if last else None)
                return state.with_client(index, done)
            case RelayDone(row=row):
                done = client._replace(request=None)
                if not self._service.keeps(Rule.ROW_AFTER_TARGET):
                    done = done._replace(request=Request(RelayDeliver(row, row.child, late=False)))
                return state.with_client(index, done)
            case Pause() if answer is False:
                return state.with_client(index, client._replace(request=None))
            case _:
                return state.with_client(index, past)
