"""How familiar a text was to the student, as its policy weighed it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column; null is "not kept then", or "the student could not tell"."""
    op.add_column("records", sa.Column("familiarity", sa.Double))
