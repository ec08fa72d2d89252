"""The data sets: QM9 from its official files, and samples of the particle systems.

`enflow data` prepares them as files in the folder of the setting ENFLOW_DATA. The package may import `mcmc`,
`enflow.model.flow.noise`, chemistry, and what lies below it, but neither the trainer nor the evaluation. Begin reading
with `qm9`.
"""
