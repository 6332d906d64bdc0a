"""Records and audits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "records",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("task", sa.String(120), nullable=False),
        sa.Column("route", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("threshold", sa.Double),
        sa.Column("labels", sa.JSON),
        sa.Column("confidences", sa.JSON),
        sa.Column("student_labels", sa.JSON),
        sa.Column("teacher_labels", sa.JSON),
        sa.Column("bundle", sa.String(64)),
        sa.Column("truncated", sa.Boolean, nullable=False),
        sa.Column("text", sa.Text),
        sa.Column("text_sha256", sa.String(64)),
        sa.Column("fields", sa.JSON),
        sa.Column("cost_student", sa.BigInteger),
        sa.Column("cost_teacher", sa.BigInteger),
        sa.Column("cost_avoided", sa.BigInteger),
        sa.Column("queue_s", sa.Double, nullable=False),
        sa.Column("student_s", sa.Double, nullable=False),
        sa.Column("busy_s", sa.Double, nullable=False),
        sa.Column("teacher_s", sa.Double, nullable=False),
        sa.Column("total_s", sa.Double, nullable=False),
        sa.Column("audit_propensity", sa.Double, nullable=False),
        sa.Column("propensity", sa.Double, nullable=False),
        sa.Column("failure", sa.String(64), nullable=False),
    )
    op.create_index("records_by_task", "records", ["task", "id"])
    op.create_table(
        "audits",
        sa.Column("record", sa.String(36), sa.ForeignKey("records.id"), primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("teacher_labels", sa.JSON, nullable=False),
        sa.Column("agrees", sa.Boolean, nullable=False),
        sa.Column("cost", sa.BigInteger),
        sa.Column("seconds", sa.Double, nullable=False),
    )
