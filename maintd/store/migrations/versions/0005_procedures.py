"""Gates, links between runs, held runs, handed values, notes, freezes, and the chain of records."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_moment = sa.BigInteger().with_variant(sa.TIMESTAMP(timezone=True), "postgresql")


_TO_CONTINUE = "state = 'queued' AND (started_at IS NOT NULL OR \"trigger\" IN ('resume', 'undo'))"


def upgrade() -> None:
    op.create_table(
        "freezes",
        sa.Column("id", _id, nullable=False),
        sa.Column("entries", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("since", _moment, nullable=False),
        sa.Column("until", _moment, nullable=False),
        sa.Column("ended_at", _moment, nullable=True),
        sa.Column("ended_by", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_freezes")),
    )
    op.create_table(
        "records",
        sa.Column("id", _id, autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("run_id", _id, nullable=False),
        sa.Column("note_id", _id, nullable=True),
        sa.Column("at", _moment, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("artifacts", sa.Text(), nullable=True),
        sa.Column("head", sa.Text(), nullable=False),
        sa.Column("pruned_by", _id, nullable=True),
        sa.Column("artifacts_pruned_by", _id, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_records")),
    )
    op.create_index("ix_records_run", "records", ["run_id"], unique=False)
    for column in ("pruned_by", "artifacts_pruned_by"):
        op.create_index(
            f"ix_records_{column}",
            "records",
            [column],
            unique=False,
            sqlite_where=sa.text(f"{column} IS NOT NULL"),
            postgresql_where=sa.text(f"{column} IS NOT NULL"),
        )
    op.create_table(
        "gate_decisions",
        sa.Column("id", _id, nullable=False),
        sa.Column("run_id", _id, nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("item", sa.Integer(), nullable=True),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("at", _moment, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("emergency", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_gate_decisions_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gate_decisions")),
    )
    op.create_index("ix_gate_decisions_run", "gate_decisions", ["run_id"], unique=False)
    op.create_table(
        "handed_values",
        sa.Column("run_id", _id, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("at", _moment, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_handed_values_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "name", name=op.f("pk_handed_values")),
    )
    op.create_table(
        "notes",
        sa.Column("id", _id, nullable=False),
        sa.Column("run_id", _id, nullable=False),
        sa.Column("at", _moment, nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_notes_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notes")),
    )
    op.create_index("ix_notes_run", "notes", ["run_id"], unique=False)
    op.create_table(
        "run_links",
        sa.Column("run_id", _id, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("other_run_id", _id, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_links_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "kind", name=op.f("pk_run_links")),
        sa.UniqueConstraint("other_run_id", "kind", name=op.f("uq_run_links_other_run_id_kind")),
    )
    op.add_column("steps", sa.Column("left_by", _id, nullable=True))
    op.add_column("locks", sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("runs", sa.Column("waiting_step", sa.Integer(), nullable=True))
    op.add_column("runs", sa.Column("waiting_until", _moment, nullable=True))
    op.add_column("runs", sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("runs", sa.Column("emergency", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("runs", sa.Column("waited", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("runs", sa.Column("window_from", _moment, nullable=True))
    op.create_index(
        "ix_runs_held",
        "runs",
        ["id"],
        unique=False,
        sqlite_where=sa.text("held IS true"),
        postgresql_where=sa.text("held IS true"),
    )
    op.create_index(
        "ix_runs_waiting",
        "runs",
        ["waiting_until", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'waiting'"),
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index(
        "ix_runs_to_continue",
        "runs",
        ["entry_id"],
        unique=False,
        sqlite_where=sa.text(_TO_CONTINUE),
        postgresql_where=sa.text(_TO_CONTINUE),
    )
    op.drop_index("uq_runs_running", table_name="runs")
    op.create_index(
        "uq_runs_in_progress",
        "runs",
        ["entry_id"],
        unique=True,
        sqlite_where=sa.text("state IN ('running', 'waiting')"),
        postgresql_where=sa.text("state IN ('running', 'waiting')"),
    )
