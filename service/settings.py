"""The settings of the service, read once from the environment; every limit is a setting."""

import difflib
import ipaddress
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from platformdirs import user_state_path
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
"""The weights of the model that takes formulas."""

FRAGMENT_WEIGHTS = BUNDLED_WEIGHTS.with_name("qm9-fragment")
"""The weights of the model that takes fragments."""

PARTICLES = ("dw4", "lj13")
"""The folders of the particle systems, beside the folder of the molecules."""

PATH_PREFIX = r"(/[A-Za-z0-9._~-]+)+"
"""A path prefix without a slash at its end, as a regular expression."""

OTHER_VARIABLES = frozenset(
    {"ENFLOW_API_KEY", "ENFLOW_CACHE", "ENFLOW_CPUS", "ENFLOW_DATA", "ENFLOW_FUZZ", "ENFLOW_IMAGE", "ENFLOW_SHARED"}
    | {"ENFLOW_URL"}
)
"""Variables of other commands, the compose file, the training and the tests, which are no misspelt settings."""


class RequestLimits(BaseModel):
    """The limits of one request; `GET /limits` shows them.

    Attributes:
        max_molecules: molecules of one request.
        max_atoms: atoms of one molecule; the loaded weights may allow fewer.
        max_pairs: sum of n_atoms squared over one request, in proportion to the work of the device.
        max_attempts: attempts per molecule with `only`, `where` or `unique`.
        max_records: structures in one upload.
        max_bytes: bytes of a request body.
        max_values: values in a JSON body; a list of n_atoms has one for each molecule.
        max_body_s: seconds a body may take to arrive.
        max_idle_s: seconds between two pieces of a body.
        max_probes, max_draws, max_frames: probes, draws and frames of one molecule.
        max_total_frames: frames of all molecules of one request.
        max_deadline_s: the longest deadline in seconds, and the default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_molecules: PositiveInt = 1000
    max_atoms: PositiveInt = 29
    max_pairs: PositiveInt = 1_000_000
    max_attempts: PositiveInt = 50
    max_records: PositiveInt = 1000
    max_bytes: PositiveInt = 10_000_000
    max_values: PositiveInt = 10_000
    max_body_s: PositiveFloat = 60.0
    max_idle_s: PositiveFloat = 10.0
    max_probes: PositiveInt = 64
    max_draws: PositiveInt = 64
    max_frames: PositiveInt = 200
    max_total_frames: PositiveInt = 20_000
    max_deadline_s: PositiveFloat = 600.0


class ChemistrySettings(BaseModel):
    """Settings of the processes that run RDKit.

    Attributes:
        processes: number of processes, at most 256.
        bonds_s: seconds for the bonds of one molecule.
        read_s: seconds to read one upload.
        memory_bytes: address space of each process; parsers and RDKit need less than half a gigabyte.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    processes: int = Field(default=2, ge=1, le=256)
    bonds_s: PositiveFloat = 5.0
    read_s: PositiveFloat = 20.0
    memory_bytes: PositiveInt = 2_000_000_000


MOST_DAYS = 1e6
"""The largest number of days for which results are kept; Python's dates end in the year 9999."""


class JobSettings(BaseModel):
    """The limits of jobs.

    Attributes:
        max_molecules: molecules or structures of one job.
        max_open: jobs of one client that are queued or running; more are answered with 429.
        max_stored_bytes: size of the stored requests and results of all jobs, about 1.5 kB for a molecule. Above it the
            jobs that ended first are removed; without such, new jobs are answered with 503, and a running one fails.
        keep_days: days after the end of a job until it is removed with its results; at most a million.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_molecules: PositiveInt = 1_000_000
    max_open: PositiveInt = 100
    max_stored_bytes: PositiveInt = 20_000_000_000
    keep_days: Annotated[float, Field(gt=0, le=MOST_DAYS)] = 7.0


def _directory(path: Path) -> Path:
    return path.expanduser().resolve()


class Settings(BaseSettings):
    """The settings of the service; in the environment `ENFLOW_PORT=9000`, `ENFLOW_LIMITS__MAX_MOLECULES=100`.

    Attributes:
        host, port: the address to listen on.
        root_path: path prefix of a proxy, such as /chem/enflow; None = that of X-Forwarded-Prefix, if any.
        allow_open: listen on a non-loopback address without API keys.
        api_keys_file: file of `name:sha256-of-the-key` lines; with it every request that computes needs a key.
        weights: directory with weights.safetensors and card.json.
        formula_weights: directory of the model that takes formulas, in an engine of its own; None = the folder beside
            `weights` whose name has "-formula" appended, if it exists.
        fragment_weights: directory of the model that takes fragments, whose engine starts at its first request; None =
            the folder beside `weights` whose name has "-fragment" appended, if it exists.
        models: directories of further models, whose engines start at their first request; None = the folders dw4 and
            lj13 beside `weights`, if they exist.
        device: "auto", "cpu" or "cuda".
        threads: threads of the engine, at most 1024; None = the choice of torch.
        compile: compile the velocity in the background after the start, where a C++ compiler is found and
            `enflow compile` has not done it.
        requests_per_minute: POST requests of one client in a minute; more are answered with 429.
        max_open_requests: open POST requests, counted once the body is there; more are answered with 503.
        max_arriving_bytes: bytes of bodies that still arrive, beyond 64 kB of each; more are answered with 503.
        allowed_hosts: names of the service, such as `chem.example` or `*.chem.example`; an address and a name without a
            dot are always allowed, and any name with API keys or `*`.
        cors_origins: origins of foreign pages that may send requests; none by default.
        drain_s: seconds that running requests get when the service stops.
        header_s: seconds a connection may take to send its headers.
        stall_s: seconds in which a client must read a part of its response.
        fronts: processes that answer HTTP, each with its own RDKit processes, count of requests per minute and of open
            requests; more than 1 where one process cannot keep up with the engines.
        log_level: level of the JSON logs: debug, info, warning or error.
        jobs_url: the database of the jobs, as sqlite:////path/jobs.sqlite or postgresql://user@host/database, whose
            password stands in the file that PGPASSFILE names; None = the file enflow/jobs-PORT.sqlite in the user's
            folder for state, such as ~/.local/state.
    """

    model_config = SettingsConfigDict(
        env_prefix="ENFLOW_",
        env_nested_delimiter="__",
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        allow_inf_nan=False,
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    root_path: Annotated[str, Field(pattern=f"^{PATH_PREFIX}$")] | None = None
    allow_open: bool = False
    api_keys_file: Path | None = None
    weights: Annotated[Path, AfterValidator(_directory)] = BUNDLED_WEIGHTS
    formula_weights: Annotated[Path, AfterValidator(_directory)] | None = None
    fragment_weights: Annotated[Path, AfterValidator(_directory)] | None = None
    models: tuple[Annotated[Path, AfterValidator(_directory)], ...] | None = None
    device: str = Field(default="auto", pattern="^(auto|cpu|cuda)$")
    threads: int | None = Field(default=None, ge=1, le=1024)
    compile: bool = True
    requests_per_minute: PositiveInt = 600
    max_open_requests: PositiveInt = 256
    max_arriving_bytes: PositiveInt = 500_000_000
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    drain_s: PositiveFloat = 30.0
    header_s: PositiveFloat = 10.0
    stall_s: PositiveFloat = 60.0
    fronts: int = Field(default=1, ge=1, le=64)
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    jobs_url: str | None = None
    limits: RequestLimits = RequestLimits()
    chemistry: ChemistrySettings = ChemistrySettings()
    jobs: JobSettings = JobSettings()

    @property
    def jobs_database(self) -> str:
        """The URL of the database of the jobs."""
        return self.jobs_url or f"sqlite:///{user_state_path('enflow') / f'jobs-{self.port}.sqlite'}"

    @property
    def formula_folder(self) -> Path | None:
        """The folder of the model that takes formulas; None where there is none."""
        return self.formula_weights or next(self._beside(f"{self.weights.name}-formula"), None)

    @property
    def fragment_folder(self) -> Path | None:
        """The folder of the model that takes fragments; None where there is none."""
        return self.fragment_weights or next(self._beside(f"{self.weights.name}-fragment"), None)

    @property
    def further(self) -> tuple[Path, ...]:
        """The folders of all models but the first."""
        return (*filter(None, (self.formula_folder, self.fragment_folder)), *self.model_folders)

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """The folders of further models that start at their first request."""
        return tuple(self._beside(*PARTICLES)) if self.models is None else self.models

    def _beside(self, *names: str) -> Iterator[Path]:
        folders = (self.weights.with_name(name) for name in names)
        return (folder for folder in folders if (folder / "card.json").is_file())

    @model_validator(mode="after")
    def _is_protected(self) -> Self:
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
    """Yield the names of all environment variables that are settings."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from names(kind, f"{prefix}{name.upper()}__")
        yield f"{prefix}{name.upper()}"  # for a group: the whole group as JSON


def _refuse_unknown(found: Iterable[str], others: frozenset[str] = frozenset()) -> None:
    known = set(names())
    for name in sorted(found):
        if not name.upper().startswith("ENFLOW_") or name.upper() in known | others:
            continue
        nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0)
        raise ConfigError(f"{name}: found no setting of this name, the nearest is {nearest[0]}")


def read_settings(given: Mapping[str, Any]) -> Settings:
    """Read the settings of the environment; given ones go before them.

    Args:
        given: settings by their names in lower case, such as `port`.

    Raises:
        ConfigError: a name is no setting, or a value is wrong; the message has the name of the setting.
    """
    _refuse_unknown(os.environ, OTHER_VARIABLES)
    _refuse_unknown(f"ENFLOW_{name.upper()}" for name in given)
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "ENFLOW_" + "__".join(str(part).upper() for part in first["loc"]) if first["loc"] else "settings"
        raise ConfigError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None
    except SettingsError as error:  # its message has the field's name in quotes, and no reason
        name = "ENFLOW_" + str(error).split('"')[1].upper()
        raise ConfigError(f'{name}: expected JSON, such as ["https://chem.example"] for a list') from None
