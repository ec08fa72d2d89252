"""The choice of a replica for each portion, by Ray Serve."""

import random
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica


class FewestPortions(FIFOMixin, RequestRouter):  # type: ignore[misc] # Ray is not typed
    """Chooses the replica with the fewest open portions of all replicas, each of which is asked.

    Serve's default compares two replicas that it draws at random, by numbers that it has remembered. A portion computes
    for seconds or minutes, so a replica that is passed over by chance is idle for as long, and one that has just
    started is not remembered yet.
    """

    queue_len_response_deadline_s = 1.0  # of 0.1: replicas may share a busy machine

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options | {"use_replica_queue_len_cache": False})

    async def choose_replicas(
        self,
        candidate_replicas: Sequence[RunningReplica],
        pending_request: PendingRequest | None = None,  # noqa: ARG002
    ) -> list[list[RunningReplica]]:
        """Return all replicas as one group, in random order: Serve takes the first with the fewest open requests."""
        return [random.sample(candidate_replicas, len(candidate_replicas))]
