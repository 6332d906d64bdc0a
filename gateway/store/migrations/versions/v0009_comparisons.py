"""What candidates said of live requests, and what each process has counted of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Create both tables. A comparison may be kept where the record of its answer was dropped."""
    op.create_table(
        "comparisons",
        sa.Column("record", sa.String(36), primary_key=True),
        sa.Column("candidate", sa.String(200), primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("task", sa.String(120), nullable=False),
        sa.Column("serving", sa.String(64)),
        sa.Column("propensity", sa.Double, nullable=False),
        sa.Column("labels", sa.JSON),
        sa.Column("score", sa.Double),
        sa.Column("margin", sa.Double),
        sa.Column("ranks", sa.JSON),
        sa.Column("escalates", sa.Boolean, nullable=False),
        sa.Column("seconds", sa.Double),
        sa.Column("lapse", sa.String(16)),
        sa.Column("serving_labels", sa.JSON),
        sa.Column("serving_score", sa.Double),
        sa.Column("serving_escalates", sa.Boolean, nullable=False),
        sa.Column("serving_seconds", sa.Double),
        sa.Column("teacher_labels", sa.JSON),
        sa.Column("source", sa.String(16)),
        sa.Column("second_labels", sa.JSON),
        sa.Column("by_chance", sa.Boolean, nullable=False),
        sa.Column("wished", sa.Boolean, nullable=False),
        sa.Column("agrees_serving", sa.Boolean),
        sa.Column("agrees_teacher", sa.Boolean),
        sa.Index("comparisons_by_candidate", "task", "candidate", "record"),
    )
    op.create_table(
        "trials",
        sa.Column("task", sa.String(120), primary_key=True),
        sa.Column("candidate", sa.String(200), primary_key=True),
        sa.Column("process", sa.String(36), primary_key=True),
        sa.Column("began", sa.Double, nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
    )
