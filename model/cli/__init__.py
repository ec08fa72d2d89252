"""The commands that `enflow` shares between model and service: options, and the group `enflow particles`.

The package may import all of `enflow.model`; torch is imported inside the commands, so that `--help` is fast. Begin
reading with `enflow.model.cli.app`, which defines the other commands.
"""
