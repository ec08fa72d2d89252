"""The route of drawings: skeletal formulas as SVG."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from enflow.service.api.auth import API_KEY, BEARER
from enflow.service.api.openapi import PROBLEMS, Responses
from enflow.service.api.uploads import check_query
from enflow.service.handlers.model_registry import ModelRegistry
from enflow.service.media_types import SVG
from enflow.service.schemas.requests import Document

depictions = APIRouter(tags=["structures"], responses=PROBLEMS, dependencies=[Depends(BEARER), Depends(API_KEY)])

EXAMPLE = '<svg xmlns="http://www.w3.org/2000/svg" width="320px" height="240px" viewBox="0 0 320 240"/>'


class DrawingQuery(Document):
    """The molecule to draw, and how."""

    smiles: str = Field(min_length=1, max_length=1000)
    theme: Literal["light", "dark"] = Field(default="light", description="the ground for which the colours are")


DRAWING: Responses = {
    200: {"description": "The drawing.", "content": {SVG: {"schema": {"type": "string"}, "example": EXAMPLE}}}
}


@depictions.get("/depiction", response_class=Response, responses=DRAWING)
async def depiction(
    request: Request,
    query: Annotated[DrawingQuery, Query()],
) -> Response:
    """Draw the skeletal formula of a SMILES, as SVG."""
    check_query(request)
    registry: ModelRegistry = request.app.state.registry
    drawing = await registry.first.chemistry.depict(query.smiles, dark=query.theme == "dark")
    return Response(drawing, media_type=SVG, headers={"Cache-Control": "private, max-age=3600"})
