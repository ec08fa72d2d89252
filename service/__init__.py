"""The web service around a flow: it generates molecules, scores structures and walks through the latent space.

The package may import `enflow.model`, which never imports the service. Its layers, from the top: the entry points
`__main__`, `command_line` and `ray_app`; `api` (HTTP) and `cli` (shell); `handlers`, one for each verb; `rendering` of
results; `client` (the way to an engine), `chemistry` (RDKit in processes) and `jobs` (their store); `engine`, which
owns the device; `schemas`, `protocol` and single modules such as `settings`. Begin with `api.routes.sample`, and follow
the request down to `engine.core`.
"""
