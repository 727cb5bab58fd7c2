"""What a function tells about itself when it is registered: its shape and its types.

Everything that can be wrong with a handler's parameters and annotations is found here, so that no
job ever meets a handler that it cannot be given to. Functions, bound methods, static methods,
`functools.partial` and callable objects are taken; what counts is the function whose code runs in
the end.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple, cast

from trio_tasks.context import Context
from trio_tasks.errors import ConfigurationError
from trio_tasks.job import Job

__all__ = ["Signature", "name_of", "signature_of"]

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_SHAPES: Final = "a handler takes (job, ctx), (job) or nothing"


class Signature(NamedTuple):
    """What was found out about a handler.

    `takes`: how many positional arguments it gets. `data`, `result`: resolved types; `object`
    where the annotation names none.
    """

    function: Callable[..., object]
    is_async: bool
    takes: int
    data: Any
    result: Any


def signature_of(handler: object) -> Signature:
    """Look at a handler.

    Annotations are resolved in the function's globals and in the locals of the frame outside this
    package that registers it.

    Raises:
        ConfigurationError: it is no function, a class, a generator, takes something else than
            `(job, ctx)`, `(job)` or nothing, or has annotations that cannot be resolved.
    """
    function = cast(object, handler.__func__) if isinstance(handler, staticmethod) else handler
    name = name_of(function)
    if inspect.isclass(function) or not callable(function):
        raise ConfigurationError(
            f"handler={name}: give a function, a method or a callable object"
            f"{', not a class' if inspect.isclass(function) else ''}"
        )
    code = _code_of(function)
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise ConfigurationError(f"handler={name} is a generator: use return, not yield")
    parameters = _parameters(function, name)
    hints = _hints(code, name)
    data: Any = object
    if parameters:
        data = _data_type(parameters[0], hints, name, alone=len(parameters) == 1)
        _check_context(parameters[1:], hints, name)
    return Signature(
        function=function,
        is_async=inspect.iscoroutinefunction(code),
        takes=len(parameters),
        data=data,
        result=hints.get("return", object),
    )


def _code_of(function: object) -> Callable[..., object]:
    """The function whose code runs, under methods, partials and callable objects."""
    while True:
        match function:
            case functools.partial():
                function = cast(object, function.func)
            case types.MethodType():
                function = function.__func__
            case types.FunctionType() | types.BuiltinFunctionType():
                return function
            case _:
                call = getattr(type(function), "__call__", None)  # noqa: B004 - not "is it callable"
                if not isinstance(call, types.FunctionType):  # written in C: nothing to see
                    return cast(Callable[..., object], function)
                function = call


def _parameters(function: Callable[..., object], name: str) -> list[str]:
    """The names of the positional parameters, at most two."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"handler={name} has no readable signature; {_SHAPES}") from error
    names = [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]
    others = [
        parameter
        for parameter in parameters
        if parameter.kind not in _POSITIONAL
        and (
            parameter.kind is not inspect.Parameter.KEYWORD_ONLY
            or parameter.default is inspect.Parameter.empty
        )
    ]
    if len(names) > 2 or others:
        shown = ", ".join(map(str, parameters))
        hint = "; decorate a wrapper with functools.wraps" if others else ""
        raise ConfigurationError(f"handler={name} has the parameters ({shown}): {_SHAPES}{hint}")
    return names


def _hints(code: Callable[..., object], name: str) -> dict[str, Any]:
    """The resolved annotations.

    In the function's globals and the registering frame's locals. Those come first only if the
    function may have been defined in that frame, that is in the same module.
    """
    namespace: dict[str, Any] = getattr(inspect.unwrap(code), "__globals__", {})
    frame = _registering_frame()
    nearby: dict[str, Any] = {}
    if frame is not None and frame.f_locals is not frame.f_globals:
        nearby = dict(frame.f_locals)
        if frame.f_globals is not namespace:
            nearby = {key: value for key, value in nearby.items() if key not in namespace}
    try:
        return typing.get_type_hints(code, namespace, nearby, include_extras=True)
    except NameError as error:
        missing = repr(error.name) if error.name else str(error)
        raise ConfigurationError(
            f"handler={name}: its annotations name {missing}, which is not known when it is"
            " registered; import it at run time, not under TYPE_CHECKING, and define it before"
        ) from error
    except Exception as error:  # whatever evaluating somebody's annotation may raise
        raise ConfigurationError(
            f"handler={name}: its annotations cannot be resolved: {error}"
        ) from error


def _registering_frame() -> types.FrameType | None:
    """The frame outside this package that registers a handler now."""
    frame: types.FrameType | None = sys._getframe(1)
    package = __name__.partition(".")[0]
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] != package:
            return frame
        frame = frame.f_back
    return None


def _data_type(parameter: str, hints: dict[str, Any], name: str, *, alone: bool) -> Any:
    """The `T` of `Job[T]`; `object` where the annotation names none."""
    hint = _bare(hints.get(parameter, object))
    if hint in (object, Any, Job):
        return object
    if typing.get_origin(hint) is Job:
        (data,) = typing.get_args(hint)
        return object if isinstance(data, typing.TypeVar) else data
    if alone and (hint is Context or typing.get_origin(hint) is Context):
        raise ConfigurationError(f"handler={name} takes a context alone: {_SHAPES}")
    raise ConfigurationError(
        f"handler={name}: its first parameter {parameter!r} is annotated as {_type_name(hint)};"
        f" annotate it as Job or Job[...]: {_SHAPES}"
    )


def _check_context(rest: list[str], hints: dict[str, Any], name: str) -> None:
    """Refuse a second parameter that a `Context` cannot be for."""
    for parameter in rest:
        hint = _bare(hints.get(parameter, object))
        kind = typing.get_origin(hint) or hint
        if (
            isinstance(kind, type)
            and kind is not Context
            and kind is not object
            and not issubclass(kind, Context)
            and not getattr(cast(object, kind), "_is_protocol", False)
        ):
            raise ConfigurationError(
                f"handler={name}: its second parameter {parameter!r} is annotated as"
                f" {_type_name(hint)}; annotate it as Context or Context[...]: {_SHAPES}"
            )


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def name_of(function: object) -> str:
    """How messages name a function. Not its `repr`: a partial's shows its arguments."""
    while isinstance(function, functools.partial):
        function = cast(object, function.func)
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        name = f"<{type(function).__qualname__} object>"
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if isinstance(module, str) and name[0] != "<" else name


def _type_name(tp: object) -> str:
    return tp.__qualname__ if isinstance(tp, type) and not typing.get_args(tp) else repr(tp)
