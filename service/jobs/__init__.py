"""The durable store of jobs: SQLite or PostgreSQL, by SQLAlchemy.

A job is one request of thousands of molecules. Its results are stored in parts; one transaction stores a part and
moves the job's count of answered molecules, so that a stopped service loses nothing that was stored and stores nothing
twice. The package may import `service.schemas.jobs` and `enflow.model.errors`; handlers import it. Begin
with `records.JobRecord`, then `store.JobStore`.
"""
