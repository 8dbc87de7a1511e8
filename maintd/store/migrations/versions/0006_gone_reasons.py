"""Why a finding is gone, whether the evidence of an attempt is complete, what of a finding was acknowledged, whether a
person withdrew that, and whose a token is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_moment = sa.BigInteger().with_variant(sa.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    # Of attempts until now it is not known, so nothing follows from a check that is missing in them.
    op.add_column("attempts", sa.Column("complete", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("findings", sa.Column("gone_reason", sa.Text(), nullable=True))
    op.execute("UPDATE findings SET gone_reason = 'passed' WHERE gone_at IS NOT NULL")
    op.add_column("checks", sa.Column("missed_limit", sa.Float(53), nullable=True))
    op.add_column("acknowledgements", sa.Column("observed", sa.Text(), nullable=True))
    op.add_column("acknowledgements", sa.Column("observed_at", _moment, nullable=True))
    op.add_column("acknowledgements", sa.Column("withdrawn", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute("UPDATE acknowledgements SET withdrawn = true WHERE ended_why LIKE 'withdrawn by %'")
    # Whether a person holds a token was not recorded until now: they are those of programs.
    op.add_column("tokens", sa.Column("person", sa.Text(), server_default=sa.text("''"), nullable=False))
