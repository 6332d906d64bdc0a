"""Budgets: what the teacher was reserved and spent for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the three tables of the ledger."""
    op.create_table(
        "budgets",
        sa.Column("task", sa.String(120), primary_key=True),
        sa.Column("paced", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "spending",
        sa.Column("task", sa.String(120), primary_key=True),
        sa.Column("window", sa.String(8), primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("spent", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "reservations",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("task", sa.String(120), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("reservations_by_task", "reservations", ["task", "at"])
