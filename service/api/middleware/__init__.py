"""ASGI middleware around every request.

The outermost comes first: request ids (asgi-correlation-id), `RequestContextMiddleware`, `PathPrefixMiddleware`,
`TrustedOriginMiddleware`, CORS (Starlette), `AdmissionMiddleware`, `BodyLimitMiddleware`. All of them are pure ASGI:
inside Starlette's `BaseHTTPMiddleware` an endpoint never sees a disconnect (Starlette 1.10, measured). The package may
import `service.handlers` and what lies below; it knows no route. Begin with `request_context`.
"""
