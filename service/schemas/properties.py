"""The properties of a molecule in requests and responses: their values, their bounds and the order of an answer."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from enflow.model.chem.analysis.descriptors import Bounds
from enflow.model.chem.analysis.ranking import SORT_KEYS


def _pair(bounds: Any) -> Any:
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        raise ValueError("found no pair, expected [lower, upper], with null for no bound")
    return tuple(bounds)


def _ascending(bounds: Bounds) -> Bounds:
    low, high = bounds
    if low is not None and high is not None and low > high:
        raise ValueError("found a lower bound above the upper one, expected [lower, upper]")
    return bounds


def _known(sort: str) -> str:
    if sort.removeprefix("-") not in SORT_KEYS:
        raise ValueError(f"found no such key, expected one of {', '.join(SORT_KEYS)}, or one with a minus sign")
    return sort


Range = Annotated[Bounds, BeforeValidator(_pair), AfterValidator(_ascending)] | None
Sort = Annotated[
    str,
    AfterValidator(_known),
    Field(json_schema_extra={"enum": [sign + key for key in SORT_KEYS for sign in ("", "-")]}),
]


class Where(BaseModel):
    """Bounds of properties: [lower, upper], both included, null for no bound; true or false of the last two."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weight: Range = None
    heavy_atoms: Range = None
    logp: Range = None
    tpsa: Range = None
    qed: Range = None
    rings: Range = None
    rotatable_bonds: Range = None
    donors: Range = None
    acceptors: Range = None
    sa_score: Range = None
    strain: Range = None
    connected: bool | None = None
    novel: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_known_names(cls, found: Any) -> Any:
        if isinstance(found, dict) and not found.keys() <= cls.model_fields.keys():
            raise ValueError(f"found a name that is no property, expected {', '.join(cls.model_fields)}")
        return found

    @property
    def bounds(self) -> dict[str, Bounds | bool]:
        """The bounds that are set, by the name of the property."""
        return {name: value for name, value in self if value is not None}


class PropertiesOut(BaseModel):
    """The properties of a molecule, by RDKit from its bonds and its geometry, rounded to four decimals."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    inchikey: str | None = Field(description="standard InChIKey")
    weight: float = Field(description="molecular weight, g/mol")
    heavy_atoms: int = Field(description="number of atoms other than hydrogen")
    logp: float = Field(description="octanol-water partition coefficient (Wildman and Crippen 1999)")
    tpsa: float = Field(description="topological polar surface area (Ertl 2000), square angstrom")
    qed: float = Field(description="quantitative estimate of drug-likeness (Bickerton 2012), 0 to 1")
    rings: int = Field(description="number of rings")
    rotatable_bonds: int = Field(description="number of rotatable bonds, without those of amides and esters")
    donors: int = Field(description="number of donors of hydrogen bonds")
    acceptors: int = Field(description="number of acceptors of hydrogen bonds")
    sa_score: float = Field(description="synthetic accessibility (Ertl and Schuffenhauer 2009), 1 = easy, 10 = hard")
    strain: float | None = Field(
        description="energy above the nearest minimum of MMFF94s, kcal/mol; null where it has no parameters"
    )
    connected: bool = Field(description="the bonds join all atoms")
    novel: bool | None = Field(
        description="QM9 has no molecule of this connectivity; null where its InChIKeys are missing"
    )
