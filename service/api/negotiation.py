"""The format of an answer: the Accept header that asks for it, and the headers that name it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header

from enflow.service.rendering.encoders import FILE_NAMES, negotiate


async def accept_header(accept: Annotated[list[str] | None, Header(include_in_schema=False)] = None) -> str | None:
    """Return all Accept lines of a request as one list; None where there is none."""
    return None if accept is None else ", ".join(accept)


Accept = Annotated[str | None, Depends(accept_header)]


@dataclass(frozen=True)
class Negotiation:
    """A FastAPI dependency: the Accept header of a request, refused before the body is read where no offer fits."""

    offers: Sequence[str]

    async def __call__(self, accept: Accept) -> str | None:
        """Return the header.

        Raises:
            Problem: not-acceptable.
        """
        negotiate(accept, self.offers)
        return accept


def format_headers(media_type: str) -> dict[str, str]:
    """Return the headers of an answer in a format: no cache keeps it, and a browser saves molecules as a file."""
    text = "" if media_type.startswith("application/") else "; charset=utf-8"
    headers = {"Vary": "Accept", "Cache-Control": "no-store", "Content-Type": media_type + text}
    if media_type in FILE_NAMES:
        headers["Content-Disposition"] = f'attachment; filename="{FILE_NAMES[media_type]}"'
    return headers
