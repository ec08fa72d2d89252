"""The commands `enflow sample`, `enflow variations` and `enflow likelihood`: the handlers of the service without HTTP.

The package may import `service.handlers` and everything below it, and `enflow.model.cli.options`. Begin with
`sample.sample`, then `offline.OfflineModel`, which runs a handler on an engine in this process.
"""
