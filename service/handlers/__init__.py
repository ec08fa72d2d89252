"""The computation behind each HTTP verb, without HTTP.

A handler submits requests to an engine, has the results rendered, and returns one `Answer`; what it finishes earlier it
emits as an event. The package may import `service.rendering` and everything below it; `service.api` and `service.cli`
import it. Begin with `sampling.SamplingHandler`, then `served_model.ServedModel`.
"""
