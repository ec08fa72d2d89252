"""The experiments of the paper on particle systems: the table of `enflow particles table`.

The package may import the rest of `enflow.model.training` and what lies below it. Begin reading with `particle_cells`,
which defines the table; `particle_benchmark` trains its cells and `particle_report` writes it.
"""
