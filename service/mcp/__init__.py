"""The server of the Model Context Protocol (MCP): the tools that a language model uses to reach a running service.

The package may import `service.http_client`, `service.schemas`, `enflow.model.chem`, `enflow.model.errors` and
`enflow.model.progress`, and is the only one that imports the SDK, which is the extra `mcp`. Begin reading at
`server.create_server`.
"""
