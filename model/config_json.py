"""Configurations and JSON: a pydantic dataclass from JSON values, and errors that name the field."""

import json
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass

from enflow.model.errors import ConfigError

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""The rules of every configuration: no unknown key, no conversion between types, finite numbers."""

T = TypeVar("T")


def config_errors(cls: type[T]) -> type[T]:
    """Let the constructor of a pydantic dataclass raise ConfigError where it refuses a value."""
    construct: Callable[..., None] = cls.__init__

    @wraps(construct)
    def init(self: T, *args: Any, **values: Any) -> None:
        try:
            construct(self, *args, **values)
        except ValidationError as error:
            raise ConfigError(_explain(cls, error, cls.__name__)) from None

    cls.__init__ = init  # type: ignore[method-assign,assignment]
    return cls


def to_json(config: Any) -> dict[str, Any]:
    """Return the configuration as plain JSON values."""
    return asdict(config)


def from_json(cls: type[T], values: dict[str, Any], where: str = "config") -> T:
    """Build a dataclass from plain JSON values.

    Args:
        cls: the dataclass; nested dataclasses are built as well.
        values: JSON values, as `json.loads` returns them.
        where: name of the document in error messages.

    Raises:
        ConfigError: an unknown or missing key, a value of the wrong type, or a value that the class refuses.
    """
    if not is_pydantic_dataclass(cls):
        cls.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
    try:
        built: T = TypeAdapter(cls).validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigError(_explain(cls, error, where)) from None
    return built


def _explain(cls: type, error: ValidationError, where: str) -> str:
    """Return the first error as one sentence: the field, the value that was found, the value that was expected."""
    found = error.errors(include_url=False)[0]
    names, keys = _place(cls, found["loc"])
    place = ".".join([where, *names])
    parent, _, last = place.rpartition(".")
    match found["type"]:
        case "unexpected_keyword_argument":
            return f"unknown key {last!r} in {parent}; expected one of {', '.join(keys)}"
        case "missing":
            return f"no key {last!r} in {parent}; expected {', '.join(keys)}"
        case "union_tag_invalid":
            return f"{place}.kind is {found['ctx']['tag']!r}; expected one of {found['ctx']['expected_tags']}"
        case "value_error":
            return f"{place}: {found['ctx']['error']}"
        case "dataclass_type" | "union_tag_not_found":
            return f"{place} is {_shown(found['input'])}; expected an object"
    expected = found["msg"].removeprefix("Input should be ")
    expected = expected.replace("greater than or equal to", "at least").replace("greater than", "more than")
    expected = expected.replace("less than or equal to", "at most")
    return f"{place} is {_shown(found['input'])}; expected {expected}"


def _place(cls: Any, loc: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """Return the names along a place of a document, and the keys of the innermost dataclass there.

    pydantic's place also holds the tag of each union member; the tag is not part of the document.
    """
    names, keys = [], list[str]()
    for part in loc:
        if is_dataclass(cls):
            keys = [f.name for f in fields(cls)]
            cls = get_type_hints(cls).get(str(part))
            names.append(str(part))
        elif members := [member for member in get_args(cls) if getattr(member, "kind", None) == part]:
            cls = members[0]
        else:
            names[-1] += f" item {int(part) + 1}" if isinstance(part, int) else f".{part}"
    return names, keys


def _shown(value: object) -> str:
    return text if len(text := repr(value)) <= 80 else f"a {type(value).__name__}"
