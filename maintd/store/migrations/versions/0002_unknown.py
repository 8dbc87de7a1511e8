"""A state for runs that observed too little, and what became of each change."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("checks", sa.Column("optional", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("changes", sa.Column("number", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("changes", sa.Column("state", sa.Text(), server_default=sa.text("'done'"), nullable=False))
    op.add_column("changes", sa.Column("cause", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.execute("UPDATE changes SET state = 'planned' WHERE NOT done")
    op.drop_column("changes", "done")
    op.drop_index("ix_changes_run", "changes")
    op.create_index("ix_changes_run", "changes", ["run_id", "step", "attempt", "number"])
    # Until now such attempts, steps and runs were taken for successes with warnings.
    op.execute(
        "UPDATE attempts SET state = 'unknown' WHERE state = 'warned' AND EXISTS ("
        " SELECT 1 FROM checks WHERE checks.run_id = attempts.run_id AND checks.step = attempts.step"
        " AND checks.attempt = attempts.number AND checks.status = 'unknown')"
    )
    op.execute(
        "UPDATE steps SET state = 'unknown' WHERE state = 'warned' AND EXISTS ("
        " SELECT 1 FROM attempts WHERE attempts.run_id = steps.run_id AND attempts.step = steps.step"
        " AND attempts.state = 'unknown' AND attempts.number = ("
        "  SELECT max(latest.number) FROM attempts latest"
        "  WHERE latest.run_id = steps.run_id AND latest.step = steps.step))"
    )
    op.execute(
        "UPDATE runs SET state = 'unknown' WHERE state = 'warned' AND EXISTS ("
        " SELECT 1 FROM steps WHERE steps.run_id = runs.id AND steps.state = 'unknown')"
    )
