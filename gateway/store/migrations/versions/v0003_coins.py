"""Which coin fell for an audit, and the uniform one's share of the propensity."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add both columns; null is "not kept then"."""
    op.add_column("records", sa.Column("audit_uniform", sa.Double))
    op.add_column("records", sa.Column("coin", sa.String(16)))
