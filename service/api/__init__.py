"""The HTTP interface: a FastAPI application around the handlers.

The package turns requests into calls of `service.handlers` and their answers into responses; it holds the only imports
of FastAPI. It may import every other package of `service` but `cli`. Begin reading with `app.create_app`, then follow
`routes.sample`: admission (`middleware`), negotiation of the format (`rendering.encoders`), `uploads` for the body, a
handler, and the response, whole or as an `event_stream`. `openapi` completes the description that FastAPI derives from
the routes. `server` is the uvicorn process around the application.
"""
