"""Runs the steps on the connection that database.py hands over, in its transaction.

Alembic loads this file. There is no ini file, and no mode that only prints SQL.
"""

from __future__ import annotations

from alembic import context

from gateway.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite can, with the explicit BEGIN of database.py
)
context.run_migrations()
