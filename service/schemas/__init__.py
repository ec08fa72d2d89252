"""The documents of the HTTP interface as pydantic models: requests, responses, and an example of each.

The package may import `service.settings`, `service.protocol` and the configuration of the model, but no torch. Begin
with `requests.SampleRequest` and `responses.SampleResponse`.
"""
