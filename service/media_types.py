"""The media types that the service reads and writes, and its own header."""

JSON = "application/json"
XYZ = "chemical/x-xyz"
SDF = "chemical/x-mdl-sdfile"
SMILES = "chemical/x-daylight-smiles"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
HTML = "text/html"
SVG = "image/svg+xml"
CSV = "text/csv"
ZIP = "application/zip"
MULTIPART = "multipart/form-data"
STREAMS = (NDJSON, SSE)

ESTIMATE = "Enflow-Estimated-Seconds"
"""The header with the estimated time of a long request."""
