"""The environment, read once into a frozen value: every limit of the service is a setting."""

import difflib
import ipaddress
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from enflow.model.errors import ConfigError

BUNDLED_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "qm9"

FORMULA_WEIGHTS = BUNDLED_WEIGHTS.with_name("qm9-formula")
"""Of the model to which the elements are given."""

PARTICLES = ("dw4", "lj13")
"""The folders of the particle systems, beside that of the molecules."""

OTHERS = frozenset({"ENFLOW_CPUS", "ENFLOW_DATA", "ENFLOW_FUZZ", "ENFLOW_IMAGE", "ENFLOW_SHARED"})
"""Variables of the compose file, the training and the tests: in the environment they are no misspelt setting."""


class RequestLimits(BaseModel):
    """What one request may ask for; `GET /limits` shows these numbers.

    Attributes:
        max_molecules: of one request.
        max_atoms: of one molecule; the loaded weights may allow fewer.
        max_pairs: sum of n_atoms squared over one request, which is what the device works on.
        max_attempts: per molecule with `only: valid` or `only: stable`.
        max_records: structures uploaded by one request.
        max_bytes: of a request body.
        max_body_s: seconds a body may take to arrive.
        max_idle_s: seconds between two pieces of a body.
        max_probes, max_draws, max_frames: of one molecule.
        max_total_frames: of all molecules of one request.
        max_deadline_s: the longest deadline, and the one of a request that names none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_molecules: PositiveInt = 1000
    max_atoms: PositiveInt = 29
    max_pairs: PositiveInt = 1_000_000
    max_attempts: PositiveInt = 50
    max_records: PositiveInt = 1000
    max_bytes: PositiveInt = 10_000_000
    max_body_s: PositiveFloat = 60.0
    max_idle_s: PositiveFloat = 10.0
    max_probes: PositiveInt = 64
    max_draws: PositiveInt = 64
    max_frames: PositiveInt = 200
    max_total_frames: PositiveInt = 20_000
    max_deadline_s: PositiveFloat = 600.0


class ChemistrySettings(BaseModel):
    """RDKit runs in processes that can be killed.

    Attributes:
        processes: how many at once.
        bonds_s: seconds for the bonds of one molecule.
        read_s: seconds to read one upload.
        memory_bytes: address space of each process; parsers and RDKit need well under half a gigabyte of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    processes: PositiveInt = 2
    bonds_s: PositiveFloat = 5.0
    read_s: PositiveFloat = 20.0
    memory_bytes: PositiveInt = 2_000_000_000


def _directory(path: Path) -> Path:
    return path.expanduser().resolve()


class Settings(BaseSettings):
    """Settings of the service, from the environment: `ENFLOW_PORT=9000`, `ENFLOW_LIMITS__MAX_MOLECULES=100`.

    Attributes:
        host, port: where to listen.
        allow_open: listen on a non-loopback address although there are no keys.
        api_keys_file: file of `name:sha256-of-the-key` lines; with it every call that computes needs a key.
        weights: directory with weights.safetensors and card.json.
        formula_weights: directory of the model that takes formulas, in an engine of its own; None = the folder beside
            `weights` with "-formula" after its name, if there is one.
        models: directories of further models, which requests choose by name and whose engines start with their first
            request; None = the folders dw4 and lj13 beside `weights`, where they are.
        device: "auto", "cpu" or "cuda".
        threads: of the engine; None = what torch chooses.
        requests_per_minute: of one client, before 429.
        max_open_requests: at once, before 503; each may hold a body in memory.
        cors_origins: origins of foreign pages that may call; none by default.
        drain_s: seconds that running work gets when the service stops.
        header_s: seconds a connection may take to send its headers.
        stall_s: seconds a caller may leave its answer unread.
        log_level: of the JSON logs.
    """

    model_config = SettingsConfigDict(
        env_prefix="ENFLOW_", env_nested_delimiter="__", frozen=True, extra="ignore", env_ignore_empty=True
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    allow_open: bool = False
    api_keys_file: Path | None = None
    weights: Annotated[Path, AfterValidator(_directory)] = BUNDLED_WEIGHTS
    formula_weights: Annotated[Path, AfterValidator(_directory)] | None = None
    models: tuple[Annotated[Path, AfterValidator(_directory)], ...] | None = None
    device: str = Field(default="auto", pattern="^(auto|cpu|cuda)$")
    threads: PositiveInt | None = None
    requests_per_minute: PositiveInt = 600
    max_open_requests: PositiveInt = 256
    cors_origins: tuple[str, ...] = ()
    drain_s: PositiveFloat = 30.0
    header_s: PositiveFloat = 10.0
    stall_s: PositiveFloat = 60.0
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    limits: RequestLimits = RequestLimits()
    chemistry: ChemistrySettings = ChemistrySettings()

    @property
    def formula_place(self) -> Path | None:
        """Where the weights of the model that takes formulas are, if anywhere."""
        return self.formula_weights or next(self._beside(f"{self.weights.name}-formula"), None)

    @property
    def further(self) -> tuple[Path, ...]:
        """Where the weights of all models but the first are."""
        return (*([self.formula_place] if self.formula_place else []), *self.model_places)

    @property
    def model_places(self) -> tuple[Path, ...]:
        """Where the weights of further models are."""
        return tuple(self._beside(*PARTICLES)) if self.models is None else self.models

    def _beside(self, *names: str) -> Iterator[Path]:
        places = (self.weights.with_name(name) for name in names)
        return (place for place in places if (place / "card.json").is_file())

    @model_validator(mode="after")
    def _closed_to_strangers(self) -> Self:
        if self.api_keys_file is None and not self.allow_open and not _is_loopback(self.host):
            raise ValueError(
                f"found host {self.host} without API keys: anybody who reaches it could use it; "
                "set ENFLOW_API_KEYS_FILE, or ENFLOW_ALLOW_OPEN=1 where that is meant"
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names(model: type[BaseModel] = Settings, prefix: str = "ENFLOW_") -> Iterator[str]:
    """Of all variables that are settings."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from names(kind, f"{prefix}{name.upper()}__")
        yield f"{prefix}{name.upper()}"  # of a group: all of it, as JSON


def _refuse_unknown(environment: Iterable[str]) -> None:
    known = set(names())
    for name in sorted(environment):
        if not name.upper().startswith("ENFLOW_") or name.upper() in known | OTHERS:
            continue
        nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0)
        raise ConfigError(f"{name}: found no setting of this name, the nearest is {nearest[0]}")


def read_settings(given: dict[str, Any]) -> Settings:
    """The settings of the environment, and over them those given.

    Raises:
        ConfigError: a setting is none, or has a wrong value, and which.
    """
    _refuse_unknown(os.environ)
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "ENFLOW_" + "__".join(str(part).upper() for part in first["loc"]) if first["loc"] else "settings"
        raise ConfigError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None
    except SettingsError as error:  # its message has the field's name in quotes, and no reason
        name = "ENFLOW_" + str(error).split('"')[1].upper()
        raise ConfigError(f'{name}: expected JSON, such as ["https://chem.example"] for a list') from None
