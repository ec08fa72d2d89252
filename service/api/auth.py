"""The file of API keys, stored as hashes, and their security schemes in the OpenAPI description."""

import re
from pathlib import Path

from fastapi.security import APIKeyHeader, HTTPBearer

from enflow.model.errors import ConfigError

BEARER = HTTPBearer(auto_error=False, description="An API key as `Authorization: Bearer KEY`")
API_KEY = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key as `X-API-Key: KEY`")
"""Security schemes for the OpenAPI description; `AdmissionMiddleware` checks the keys before any route is chosen."""

_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})")


def read_keys(file: Path | None) -> dict[str, str]:
    """Read a file of keys: lines of `name:sha256`, empty lines, and comments that begin with #.

    Raises:
        ConfigError: the file cannot be read, holds no key, or has a line of another form.
    """
    if file is None:
        return {}
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"ENFLOW_API_KEYS_FILE: {file} cannot be read: {type(error).__name__}") from None
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if not found:
            place = f"ENFLOW_API_KEYS_FILE: {file}, line {number}"
            raise ConfigError(f"{place}: expected name:sha256-of-the-key in lower-case hexadecimal")
        keys[found[1]] = found[2]
    if not keys:
        raise ConfigError(f"ENFLOW_API_KEYS_FILE: {file}: found no key, expected lines of name:sha256-of-the-key")
    return keys
