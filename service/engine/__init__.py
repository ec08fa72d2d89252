"""The engine: it owns the device and computes many molecules at once by continuous batching.

A request (`EngineSampleRequest`, `EngineLikelihoodRequest`, ...) holds samples; a sample is one molecule of it. A
sample needs one row or several; a row is one ODE trajectory. After every step of the solver finished rows leave the
device and waiting rows enter. The engine is synchronous and knows neither HTTP nor asyncio: `process` runs it behind a
pipe.

The package may import `enflow.model`, `service.protocol` and `service.problems`. `scheduler`, `batch_key` and
`cost_model` import no torch. Begin reading at `core.Engine.step`.
"""
