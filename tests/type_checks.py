"""The type checks of the tests, where a signature without shapes has a short way."""

import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping


def install() -> None:
    """Let the import hook of jaxtyping check signatures without shapes by beartype alone.

    jaxtyping binds and keeps the arguments of every call, shapes or none, which is nearly half of the time of a
    likelihood. Call this before the first import of a checked package.
    """
    with_shapes = jaxtyping.jaxtyped

    def jaxtyped(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def checked(target: Any) -> Any:
            return with_shapes(target, typechecker=typechecker) if may_have_shapes(target) else typechecker(target)

        return checked

    jaxtyping.jaxtyped = jaxtyped


def may_have_shapes(target: Any) -> bool:
    """Return False for a function whose annotations are known, and name no array of jaxtyping."""
    if not inspect.isfunction(target):
        return True
    return any(isinstance(each, str) or "jaxtyping" in repr(each) for each in inspect.get_annotations(target).values())
