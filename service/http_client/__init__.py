"""The Python client of a running service: `enflow.Client`.

`client.Client` has a method for each endpoint, and `job.Job` is a job. `connection` repeats what the service refuses
for now, and streams that break. `request_body` is the JSON of a request, `answers` checks that Enflow has answered, and
`results` turns documents into the objects of the library. The package may import `enflow.model.chem`, `model.errors`,
`model.files`, `model.progress` and `service.media_types`; it imports no torch and no web framework. Begin reading at
`client.Client`.
"""
