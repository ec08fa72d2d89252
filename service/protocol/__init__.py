"""The messages between the service and an engine, which cross the process boundary by pickle.

`requests` holds what an engine is asked, `events` what it answers, `status` its state. The package may import
`enflow.model.errors`, and of `enflow.model.flow` the options of the estimator and the tolerances of the solver; it
imports no torch. Begin reading at `requests`.

A request holds samples, and sample i has the index `first_index` + i. Every sample has exactly one answer: `Sampled`,
`Scored`, `Encoded` or `Failed`. `Done` is the last event of every request. Indices count from 0. Times of day are
seconds since the epoch (`time.time`), because two processes share no other clock.
"""
