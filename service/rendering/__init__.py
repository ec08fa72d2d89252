"""The results of the engine as response documents and files.

`molecules` and `particles` build the pydantic documents of `service.schemas.responses`; `encoders` turns a whole answer
into JSON, XYZ, SDF, CSV, HTML or ZIP, and `job_results` the stored results of a job. The package may import
`service.chemistry`, `service.jobs.records` and what lies below them, and `enflow.model.chem`. Begin with
`molecules.render_sample`, then `encoders.encode_answer`.
"""
