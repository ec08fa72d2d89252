"""RDKit and the parsers of uploads, in processes that can be killed.

The package may import `enflow.model.chem`, `enflow.model.errors`, `service.settings`, `service.problems` and
`service.telemetry`; it imports no torch. Begin with `rdkit_pool.RDKitPool`.
"""
