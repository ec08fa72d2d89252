"""The JSON body of a request, from what a caller of Python has: also numbers and arrays of NumPy, and ranges."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from enflow.service.http_client.errors import ServiceError


def request_body(fields: Mapping[str, Any]) -> bytes:
    """Return the fields of a request as JSON.

    Raises:
        ServiceError: JSON has no form for a value; the message begins with its place, such as sample/temperature.
    """
    try:
        return json.dumps(_plain(fields, ""), ensure_ascii=False).encode()
    except RecursionError:
        raise ServiceError("found a body that is nested too deeply, expected the fields of a request") from None
    except ValueError:  # Python writes no integers of thousands of digits
        raise ServiceError("found an integer with too many digits in the body, expected at most 64 bits") from None


def _plain(value: Any, where: str) -> Any:
    """Return a value as json writes it."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _error(where, f"{value}, expected a finite number")
        return value
    if isinstance(value, Mapping):
        return {_name(name, where): _plain(each, f"{where}/{name}") for name, each in value.items()}
    if hasattr(value, "tolist"):  # a number or an array of NumPy, or a tensor
        return _plain(value.tolist(), where)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [_plain(each, f"{where}/{place}") for place, each in enumerate(value)]
    raise _error(where, f"a value of the type {type(value).__name__}, expected what JSON has: numbers, texts, lists")


def _name(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise _error(where, f"a field whose name is of the type {type(name).__name__}, expected a text")
    return _text(name, where)


def _text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"{text[error.start]!r} as character {error.start + 1} of a text, which is half of a surrogate pair"
        raise _error(where, f"{found}; expected Unicode") from None
    return text


def _error(where: str, text: str) -> ServiceError:
    return ServiceError(f"{where.strip('/')}: found {text}".removeprefix(": "))
