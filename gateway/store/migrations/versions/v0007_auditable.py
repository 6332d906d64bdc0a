"""Whether an audit could be made of an answer: the served error is found again by it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column; null is "not kept then"."""
    op.add_column("records", sa.Column("auditable", sa.Boolean))
