"""Which failed check another one follows from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("checks", sa.Column("because", sa.Text(), server_default=sa.text("''"), nullable=False))
