"""The clients: how a handler reaches an engine.

`base.EngineClient` is the interface. `process_client` runs one engine in a process of its own and replaces it when it
fails; `replica_client` shares requests among many engines; `lazy_client` starts an engine with its first request. All
keep one promise: every sample has exactly one answer, whatever happens to an engine. The package may import
`engine.process` and `engine.cost_model`, `service.protocol`, `service.settings`, `service.telemetry`,
`enflow.model.card` and `enflow.model.errors`; it imports no torch. Begin reading at `base`, then at
`process_client.ProcessClient`.
"""
