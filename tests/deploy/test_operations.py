"""README.md tells the truth about the settings."""

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from enflow.service.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "README.md"


def settings(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}", field.default


def shown(default: object) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, Path):
        return "the bundled `weights/qm9`"
    return (
        f"`{int(default)}`"
        if isinstance(default, bool)
        else f"`{default:g}`"
        if isinstance(default, float)
        else f"`{default}`"
    )


def test_the_table_lists_every_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(ENFLOW_\w+)` \| (.*?) ?\| .+\|$", PAGE.read_text(), re.MULTILINE))
    assert rows == {name: shown(default) for name, default in settings(Settings, "ENFLOW_")}
