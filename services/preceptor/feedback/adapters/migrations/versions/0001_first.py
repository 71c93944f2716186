"""Projects, guidelines, comparisons, leases, the vote log and its readers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_projects()
    _create_comparisons()
    _create_leases()
    _create_vote_events()


def _create_projects() -> None:
    op.create_table(
        "projects",
        sa.Column("project_id", sa.String(length=63), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("default_overlap", sa.Integer(), nullable=False),
        sa.Column("axes", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", name="pk_projects"),
    )
    op.create_table(
        "guidelines",
        sa.Column("project_id", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.project_id"], name="fk_guidelines_project_id"),
        sa.PrimaryKeyConstraint("project_id", "version", name="pk_guidelines"),
    )


def _create_comparisons() -> None:
    op.create_table(
        "comparisons",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("comparison_id", sa.String(length=200), nullable=False),
        sa.Column("project_id", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("rankings", sa.Integer(), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("control", sa.Boolean(), nullable=False),
        sa.Column("gold", sa.Boolean(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("repeat_of", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("candidates", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.project_id"], name="fk_comparisons_project_id"),
        sa.PrimaryKeyConstraint("position", name="pk_comparisons"),
        sa.UniqueConstraint("comparison_id", name="uq_comparisons_comparison_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_comparisons_queue",
        "comparisons",
        ["project_id", sa.literal_column("priority DESC"), "position"],
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index("ix_comparisons_run", "comparisons", ["project_id", "run_id", "position"])
    op.create_index("ix_comparisons_state", "comparisons", ["project_id", "state", "position"])


def _create_leases() -> None:
    op.create_table(
        "leases",
        sa.Column("lease_id", sa.String(length=200), nullable=False),
        sa.Column("project_id", sa.String(length=63), nullable=False),
        sa.Column("comparison_id", sa.String(length=200), nullable=False),
        sa.Column("rater_id", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=True),
        sa.Column("guideline_version", sa.Integer(), nullable=False),
        sa.Column("leased_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("shown_order", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["comparison_id"], ["comparisons.comparison_id"], name="fk_leases_comparison_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.project_id"], name="fk_leases_project_id"),
        sa.PrimaryKeyConstraint("lease_id", name="pk_leases"),
        sa.UniqueConstraint("comparison_id", "rater_id", name="uq_leases_comparison_id_rater_id"),
    )
    op.create_index(
        "uq_leases_held",
        "leases",
        ["project_id", "rater_id"],
        unique=True,
        sqlite_where=sa.text("state = 'held'"),
        postgresql_where=sa.text("state = 'held'"),
    )
    op.create_index(
        "uq_leases_slot",
        "leases",
        ["comparison_id", "slot"],
        unique=True,
        sqlite_where=sa.text("state IN ('held', 'answered')"),
        postgresql_where=sa.text("state IN ('held', 'answered')"),
    )


def _create_vote_events() -> None:
    op.create_table(
        "vote_events",
        sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("project_id", sa.String(length=63), nullable=False),
        sa.Column("comparison_id", sa.String(length=200), nullable=False),
        sa.Column("rater_id", sa.String(length=63), nullable=False),
        sa.Column("target", sa.String(length=36), nullable=True),
        sa.Column("submitted_at", sa.BigInteger(), nullable=False),
        sa.Column("shown_at", sa.BigInteger(), nullable=True),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("guideline_version", sa.Integer(), nullable=False),
        sa.Column("lease_id", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("label_digest", sa.String(length=64), nullable=False),
        sa.Column("shown_order", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["comparison_id"], ["comparisons.comparison_id"], name="fk_vote_events_comparison_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.project_id"], name="fk_vote_events_project_id"),
        sa.PrimaryKeyConstraint("sequence", name="pk_vote_events"),
        sa.UniqueConstraint("event_id", name="uq_vote_events_event_id"),
        sa.UniqueConstraint("target", name="uq_vote_events_target"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_vote_events_comparison", "vote_events", ["comparison_id", "rater_id"])
    op.create_index("ix_vote_events_project", "vote_events", ["project_id", "sequence"])
    op.create_index("ix_vote_events_rater", "vote_events", ["project_id", "rater_id", "sequence"])
    op.create_table(
        "log_readers",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_log_readers"),
    )


def downgrade() -> None:
    for table in ("log_readers", "vote_events", "leases", "comparisons", "guidelines", "projects"):
        op.drop_table(table)
