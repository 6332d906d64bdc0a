"""What a comparison and a trial were seen under, and which verdicts count in a trial already."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns, and make the table of trials anew.

    Its rows do not say under which policies they were counted, so that nothing rests on them: a
    test that is under way begins anew. The comparisons themselves stay.
    """
    op.add_column("comparisons", sa.Column("policy", sa.String(64)))
    op.add_column("comparisons", sa.Column("serving_policy", sa.String(64)))
    op.add_column("comparisons", sa.Column("judged", sa.Boolean))
    op.drop_table("trials")
    op.create_table(
        "trials",
        sa.Column("segment", sa.String(36), primary_key=True),
        sa.Column("task", sa.String(120), nullable=False),
        sa.Column("candidate", sa.String(200), nullable=False),
        sa.Column("began", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
        sa.Column("slices", sa.JSON),
        sa.Index("trials_by_candidate", "task", "candidate"),
    )
