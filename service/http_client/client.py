"""Client: the endpoints of a running service as methods."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Self, Unpack

from enflow.model.chem.io.xyz import write_xyz
from enflow.model.chem.molecule import Molecule, MoleculeLike, as_molecules
from enflow.model.progress import ProgressCallback
from enflow.service.http_client.connection import Connection, Event
from enflow.service.http_client.job import FIELDS, Job, job_path
from enflow.service.http_client.params import InterpolateParams, LikelihoodParams, SampleParams, VariationsParams
from enflow.service.http_client.results import GeneratedMolecules, Json, MoleculeScore, molecule, score

HERE = "http://127.0.0.1:8000"

Endpoint = Literal["sample", "interpolate", "variations"]
"""The endpoints that generate molecules."""


class Client:
    """A client of a running service; a context manager, which closes its connections.

    A request that is refused for now is repeated at the time that the service names, and a connection that breaks is
    opened again. Nothing is computed twice for the caller: (seed, index) fixes a molecule.

    Args:
        url: address of the service; None = the environment variable ENFLOW_URL, or http://127.0.0.1:8000.
        api_key: the key; None = ENFLOW_API_KEY, or no key.
        timeout_s: seconds without data after which a connection counts as broken. The service sends data at least
            every two seconds while it computes. A whole answer may take ten times as long as the service estimates.
        patience_s: seconds for which a refused request is repeated; a service that asks for more is not asked again.

    Raises:
        ServiceError: from every method, where the service refuses the request, gives no answer or is not Enflow, and
            where a value has no form in JSON; at once, where the address or the key cannot be one.

    Example:
        `enflow.Client().sample(n_molecules=4, seed=7)` are four molecules.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 120.0,
        patience_s: float = 300.0,
    ) -> None:
        url, api_key = url or os.environ.get("ENFLOW_URL") or HERE, api_key or os.environ.get("ENFLOW_API_KEY")
        self._connection = Connection(url, api_key, timeout_s, patience_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def sample(self, *, progress: ProgressCallback | None = None, **params: Unpack[SampleParams]) -> GeneratedMolecules:
        """Return molecules, with NLL, SMILES and the like as their properties.

        Args:
            progress: is called with the task, the molecules done and all molecules.
            params: the fields of `POST /sample`, such as n_molecules, n_atoms, seed, only or with_nll. A fragment is a
                molecule of Enflow, RDKit or ASE, angstrom.
        """
        return self.generate("sample", _sample_body(params), progress)

    def samples(self, **params: Unpack[SampleParams]) -> Iterator[Molecule]:
        """Yield molecules in the order in which they finish; see `sample`. A caller that stops cancels the rest."""
        for event in self._connection.events("/sample", _sample_body(params)):
            if event["event"] == "molecule":
                yield molecule(event["molecule"])

    def log_prob(
        self, molecules: MoleculeLike | Iterable[MoleculeLike], **params: Unpack[LikelihoodParams]
    ) -> list[MoleculeScore]:
        """Return the score of each molecule, in order.

        Args:
            molecules: one molecule or many, of Enflow, RDKit or ASE, angstrom.
            params: the fields of `POST /likelihood`, such as target_error, in nats.
        """
        return self.score({"structures": structures(molecules), **params})

    def variations(self, parent: MoleculeLike, **params: Unpack[VariationsParams]) -> GeneratedMolecules:
        """Return molecules near a molecule.

        Args:
            parent: the molecule to vary, angstrom.
            params: the fields of `POST /variations`, such as n_molecules, strength or keep.
        """
        return self.generate("variations", {"structures": structures(parent), **params})

    def interpolate(
        self, first: MoleculeLike, last: MoleculeLike, **params: Unpack[InterpolateParams]
    ) -> GeneratedMolecules:
        """Return molecules on the way from one molecule to another with the same number of atoms.

        Args:
            first, last: the ends, angstrom.
            params: the fields of `POST /interpolate`, such as steps.
        """
        return self.generate("interpolate", {"structures": structures([first, last]), **params})

    def generate(
        self, endpoint: Endpoint, body: Mapping[str, Any], progress: ProgressCallback | None = None
    ) -> GeneratedMolecules:
        """Return the molecules of a request that is given as its JSON body; see `sample`."""
        *events, answer = self._computed(f"/{endpoint}", body, progress)
        found = {int(event["molecule"]["index"]): event["molecule"] for event in events if "molecule" in event}
        return GeneratedMolecules([found[index] for index in answer.get("order") or sorted(found)], answer)

    def score(self, body: Mapping[str, Any], progress: ProgressCallback | None = None) -> list[MoleculeScore]:
        """Return the scores of a request that is given as its JSON body; see `log_prob`."""
        events = self._computed("/likelihood", body, progress)
        found = {event["score"]["index"]: score(event["score"]) for event in events if "score" in event}
        return [found[index] for index in sorted(found)]

    def submit(self, /, **body: Mapping[str, Any]) -> Job:
        """Start a job, and return it.

        Args:
            body: the fields of one request, under the name of its endpoint: sample, likelihood, interpolate or
                variations. `structures` turns molecules into the field "structures".

        Example:
            `client.submit(sample={"n_molecules": 2000, "only": "valid"})`
        """
        return Job(self._connection, self._connection.json("POST", "/jobs", FIELDS, safe=False, body=body))

    def job(self, job_id: str) -> Job:
        """Return a job."""
        return Job(self._connection, self._connection.json("GET", job_path(job_id), FIELDS))

    def jobs(self) -> list[Job]:
        """Return the newest jobs, newest first."""
        return [Job(self._connection, each) for each in self._connection.json("GET", "/jobs", ["jobs"])["jobs"]]

    def models(self) -> list[Json]:
        """Return the cards of the loaded weights."""
        found: list[Json] = self._connection.json("GET", "/models", ["models"])["models"]
        return found

    def limits(self) -> Json:
        """Return the limits of one request."""
        return self._connection.json("GET", "/limits", ["max_molecules"])

    def _computed(self, path: str, body: Mapping[str, Any], progress: ProgressCallback | None) -> list[Event]:
        """Return the events of a computation that have results, and the last event."""
        found: list[Event] = []
        total = 0
        for event in self._connection.events(path, body):
            if event["event"] in ("molecule", "score", "done"):
                found.append(event)
            total = event.get("n_molecules", total)
            if progress:
                progress("computing", min(len(found), total), total)
        return found


def _sample_body(params: SampleParams) -> Json:
    """Return the fields of a request for molecules; a fragment that is an object becomes a text."""
    body: Json = {**params}
    if body.get("fragment") is not None and not isinstance(body["fragment"], Mapping):
        (body["fragment"],) = structures(body["fragment"])
    return body


def structures(molecules: MoleculeLike | Iterable[MoleculeLike]) -> list[dict[str, str]]:
    """Return molecules as the field `structures` of a request; names and properties are left out.

    Raises:
        StructureError: an object is no molecule of Enflow, RDKit or ASE.
    """
    bare = [Molecule(each.atomic_numbers, each.positions) for each in as_molecules(molecules)]
    return [{"format": "xyz", "data": write_xyz(bare)}]
