"""What people say of stored answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the table; rows are only ever added, and go with their record."""
    op.create_table(
        "verdicts",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("record", sa.String(36), sa.ForeignKey("records.id"), nullable=False),
        sa.Column("who", sa.String(120), nullable=False),
        sa.Column("by", sa.String(120)),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Index("verdicts_by_record", "record", "id"),
    )
