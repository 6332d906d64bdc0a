"""The probabilities that a teacher gave, in records and in audits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column to both; null is "not kept then", or "it gave none"."""
    op.add_column("records", sa.Column("teacher_scores", sa.JSON))
    op.add_column("audits", sa.Column("teacher_scores", sa.JSON))
