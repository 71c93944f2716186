"""Settings of projects, gold answers, repeats for one rater, states of raters, demonstrations."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("projects", sa.Column("settings", sa.Text(), nullable=False, server_default="{}"))
    op.add_column("comparisons", sa.Column("gold_answer", sa.Text(), nullable=False, server_default="[]"))
    op.add_column(
        "comparisons", sa.Column("only_rater", sa.String(length=63), nullable=False, server_default=sa.text("''"))
    )
    where = sa.text("repeat_of != ''")
    op.create_index(
        "ix_comparisons_repeat_of", "comparisons", ["repeat_of"], sqlite_where=where, postgresql_where=where
    )
    op.create_table(
        "raters",
        sa.Column("project_id", sa.String(length=63), nullable=False),
        sa.Column("rater_id", sa.String(length=63), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("changed_by", sa.String(length=63), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.project_id"], name="fk_raters_project_id"),
        sa.PrimaryKeyConstraint("project_id", "rater_id", name="pk_raters"),
    )
    _create_demonstrations()


def _create_demonstrations() -> None:
    op.create_table(
        "demonstrations",
        sa.Column("sequence", _SERIAL, nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=63), nullable=False),
        sa.Column("rater_id", sa.String(length=63), nullable=False),
        sa.Column("comparison_id", sa.Text(), nullable=False),
        sa.Column("guideline_version", sa.Integer(), nullable=False),
        sa.Column("submitted_at", sa.BigInteger(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.project_id"], name="fk_demonstrations_project_id"),
        sa.PrimaryKeyConstraint("sequence", name="pk_demonstrations"),
        sa.UniqueConstraint("event_id", name="uq_demonstrations_event_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_demonstrations_project", "demonstrations", ["project_id", "sequence"])


def downgrade() -> None:
    op.drop_table("demonstrations")
    op.drop_table("raters")
    op.drop_index("ix_comparisons_repeat_of", "comparisons")
    for table, column in (("comparisons", "only_rater"), ("comparisons", "gold_answer"), ("projects", "settings")):
        op.drop_column(table, column)
