"""Events of runs, findings with acknowledgements, notices of incidents, mutes and tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_moment = sa.BigInteger().with_variant(sa.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "incidents",
        sa.Column("id", _id, nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("critical", sa.Boolean(), nullable=False),
        sa.Column("opened_at", _moment, nullable=False),
        sa.Column("closed_at", _moment, nullable=True),
        sa.Column("run_id", _id, nullable=True),
        sa.Column("last_run_id", _id, nullable=True),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("reminders", sa.Integer(), nullable=False),
        sa.Column("remind_at", _moment, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_incidents")),
    )
    op.create_index("ix_incidents_opened_at", "incidents", ["opened_at"], unique=False)
    op.create_index(
        "uq_incidents_open",
        "incidents",
        ["subject", "kind"],
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_table(
        "mutes",
        sa.Column("id", _id, nullable=False),
        sa.Column("entries", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("since", _moment, nullable=False),
        sa.Column("until", _moment, nullable=False),
        sa.Column("ended_at", _moment, nullable=True),
        sa.Column("ended_by", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mutes")),
    )
    op.create_table(
        "tokens",
        sa.Column("id", _id, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("entries", sa.Text(), nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", _moment, nullable=False),
        sa.Column("revoked_at", _moment, nullable=True),
        sa.Column("revoked_by", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("last_used_at", _moment, nullable=True),
        sa.Column("last_used_from", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_tokens_digest")),
        sa.UniqueConstraint("name", name=op.f("uq_tokens_name")),
    )
    op.create_table(
        "findings",
        sa.Column("id", _id, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("entry_id", _id, nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("check", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("observed", sa.Text(), nullable=False),
        sa.Column("expected", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("because", sa.Text(), nullable=False),
        sa.Column("first_seen_at", _moment, nullable=False),
        sa.Column("last_seen_at", _moment, nullable=False),
        sa.Column("gone_at", _moment, nullable=True),
        sa.Column("first_run_id", _id, nullable=False),
        sa.Column("last_run_id", _id, nullable=False),
        sa.Column("seen_count", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["entry_id"], ["entries.id"], name=op.f("fk_findings_entry_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_findings")),
        sa.UniqueConstraint("entry_id", "step", "job", "check", name=op.f("uq_findings_entry_id_step_job_check")),
        sa.UniqueConstraint("key", name=op.f("uq_findings_key")),
    )
    op.create_index("ix_findings_last_seen", "findings", ["last_seen_at"], unique=False)
    op.create_index(
        "ix_findings_open",
        "findings",
        ["entry_id", "id"],
        unique=False,
        sqlite_where=sa.text("gone_at IS NULL"),
        postgresql_where=sa.text("gone_at IS NULL"),
    )
    op.create_table(
        "notices",
        sa.Column("id", _id, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("incident_id", _id, nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("critical", sa.Boolean(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("not_before", _moment, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("channel_down", sa.Boolean(), nullable=False),
        sa.Column("group_key", sa.Text(), nullable=True),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_until", _moment, nullable=True),
        sa.Column("sent_at", _moment, nullable=True),
        sa.ForeignKeyConstraint(
            ["incident_id"], ["incidents.id"], name=op.f("fk_notices_incident_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
        sa.UniqueConstraint("key", name=op.f("uq_notices_key")),
    )
    op.create_index("ix_notices_created_at", "notices", ["created_at"], unique=False)
    op.create_index("ix_notices_incident", "notices", ["incident_id"], unique=False)
    op.create_index("ix_notices_sent_at", "notices", ["sent_at"], unique=False)
    op.create_index(
        "ix_notices_pending",
        "notices",
        ["not_before", "id"],
        unique=False,
        sqlite_where=sa.text("state IN ('waiting', 'sending')"),
        postgresql_where=sa.text("state IN ('waiting', 'sending')"),
    )
    op.create_table(
        "acknowledgements",
        sa.Column("id", _id, nullable=False),
        sa.Column("finding_id", _id, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", _moment, nullable=False),
        sa.Column("until", _moment, nullable=False),
        sa.Column("ended_at", _moment, nullable=True),
        sa.Column("ended_why", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.ForeignKeyConstraint(
            ["finding_id"], ["findings.id"], name=op.f("fk_acknowledgements_finding_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_acknowledgements")),
    )
    op.create_index("ix_acknowledgements_finding", "acknowledgements", ["finding_id", "id"], unique=False)
    op.create_index(
        "uq_acknowledgements_not_ended",
        "acknowledgements",
        ["finding_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "run_events",
        sa.Column("id", _id, nullable=False),
        sa.Column("run_id", _id, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("at", _moment, nullable=False),
        sa.Column("reviewed", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_events_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_events")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_run_events_not_reviewed",
        "run_events",
        ["id"],
        unique=False,
        sqlite_where=sa.text("reviewed IS false"),
        postgresql_where=sa.text("reviewed IS false"),
    )
    op.create_index("ix_run_events_run", "run_events", ["run_id"], unique=False)
    op.add_column("events", sa.Column("origin", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("events", sa.Column("why", sa.Text(), server_default=sa.text("''"), nullable=False))
