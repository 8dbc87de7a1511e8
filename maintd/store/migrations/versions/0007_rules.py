"""The rule that a check follows, and where it comes from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    for table in ("checks", "findings"):
        op.add_column(table, sa.Column("rule", sa.Text(), server_default=sa.text("''"), nullable=False))
