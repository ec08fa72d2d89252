"""The commands data, train, evaluate, particles and import-en-flows, and the options that `enflow.service.cli` shares.

The package may import all of `enflow.model`; torch is imported inside the commands, so that `--help` is fast. Begin
reading with `app`; `particles` defines the commands of particle systems.
"""
