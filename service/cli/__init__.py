"""The commands `enflow sample`, `enflow variations` and `enflow likelihood`: the handlers of the service without HTTP.

`enflow jobs` and `enflow mcp` reach a running service by `service.http_client`. The package may import
`service.handlers`, `service.mcp` and everything below them, and `enflow.model`. Begin with `sample.sample`, then
`offline.OfflineModel`, which runs a handler on an engine in this process.
"""
