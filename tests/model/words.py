"""Words for traces."""

from __future__ import annotations

from typing import assert_never

from tests.model.actors import (
    Answer,
    Ask,
    Asked,
    Beat,
    Cancel,
    Leave,
    Own,
    Pause,
    Register,
    RelayDeliver,
    RelayDone,
    RelayRead,
    Requeue,
    StepAnswer,
    Take,
    What,
)
from tests.model.store import BeatAnswer, New, OwnAnswer, Token

__all__ = ["answered", "name_of", "said"]


def name_of(worker: int) -> str:
    """What a worker is called."""
    return "ABC"[worker]


def _token(token: Token) -> str:
    worker, life = token.inc
    return f"({name_of(worker)}.{life}, {token.job} entry {token.entry}, {token.deliveries})"


def said(what: What) -> str:
    """A request."""
    match what:
        case Own(life=life, g=g, have=have):
            return f"own(life {life}, g {g}, have [{', '.join(map(_token, have))}])"
        case Take(life=life, g=g, outcomes=outcomes, want=want):
            said = ", ".join(f"{o.kind} {_token(o.token)}" for o in outcomes)
            return f"step(life {life}, g {g}, [{said}], want {want})"
        case Register(life=life) | Beat(life=life) | Leave(life=life):
            return f"{type(what).__name__.lower()}(life {life})"
        case Ask(delivery=delivery):
            return f"debounce({delivery.token.job})"
        case New(id=job, number=number):
            return f"enqueue({job}, number {number})"
        case Cancel(job=job, number=number):
            return f"cancel({job}, number {number})"
        case Requeue(job=job, generation=generation):
            return f"requeue({job}, generation {generation})"
        case Pause(paused=paused, number=number):
            return f"{'pause' if paused else 'resume'}(number {number})"
        case RelayDeliver(child=child, late=late):
            return f"relay_deliver({child.id}{', late' if late else ''})"
        case RelayDone(row=row):
            return f"relay_done({row.child.id})"
        case RelayRead():
            return "relay_read"
        case _:
            assert_never(what)


def answered(answer: Answer) -> str:
    """Its answer."""
    match answer:
        case StepAnswer(applied=applied, taken=taken):
            text = [applied] if applied else []
            if taken is not None:
                text.append(taken.status)
                text += [f"{_token(d.token)} attempt {d.attempt}" for d in taken.deliveries]
            return " ".join(text) or "nothing"
        case OwnAnswer(status=status, lost=lost):
            return f"{status}{' lost ' if lost else ''}{', '.join(map(_token, lost))}"
        case BeatAnswer(alive=alive, cancels=cancels):
            return (
                f"{'alive' if alive else 'dead'}{', cancel ' if cancels else ''}{' '.join(cancels)}"
            )
        case Asked(holder=holder, refused=refused):
            return "refused" if refused else f"held by {holder}"
        case _:
            return str(answer)
