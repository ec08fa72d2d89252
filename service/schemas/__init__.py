"""The documents of the HTTP interface as pydantic models: requests, responses, and an example of each.

The package may import `service.settings`, `enflow.model.config`, `enflow.model.chem` and
`enflow.model.flow.estimator_options`, but no torch. Begin with `requests.SampleRequest` and `responses.SampleResponse`.
"""
