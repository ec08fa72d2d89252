"""The source of an uploaded structure, as responses name it."""

from typing import Any

from pydantic import Field

from enflow.service.schemas.requests import Strict


class FileOut(Strict):
    """The file of an uploaded structure."""

    file: str | None = Field(default=None, description="the name of its file, where it came with one")


class SourceOut(FileOut):
    """The file of an uploaded structure, and the facts that stand in it."""

    name: str = Field(description="the title in the file; empty where it has none")
    data: dict[str, Any] = Field(
        description="the data items of an SDF, or the info of an extended XYZ, as they stand in the file; `xyz` and "
        "`sdf` have them too, with the results in the place of those of the same name"
    )
