"""The first tables: loops, stages, runs, reward models, labels behind them, policy segments, events."""

import sqlalchemy as sa
from alembic import op

from preceptor.conductor.store.models import BigId, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates them."""
    _loops()
    _runs()
    _lineage()
    op.create_table(
        "events",
        sa.Column("sequence", BigId, primary_key=True, autoincrement=True),
        sa.Column("loop_id", sa.String(63), sa.ForeignKey("loops.loop_id"), nullable=False),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("stage", sa.String(64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
    )
    op.create_index("ix_events_loop_id_sequence", "events", ["loop_id", "sequence"])


def downgrade() -> None:
    """Drops them."""
    for table in ("events", "policy_segments", "snapshot_labels", "reward_models", "runs", "stages", "loops"):
        op.drop_table(table)


def _loops() -> None:
    op.create_table(
        "loops",
        sa.Column("loop_id", sa.String(63), primary_key=True),
        sa.Column("config_yaml", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("iterations", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("stop_requested", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "stages",
        sa.Column("loop_id", sa.String(63), sa.ForeignKey("loops.loop_id"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("iteration", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", UtcDateTime()),
        sa.Column("finished_at", UtcDateTime()),
        sa.Column("run_id", sa.String(63), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
    )


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(63), primary_key=True),
        sa.Column("loop_id", sa.String(63), sa.ForeignKey("loops.loop_id"), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("config_yaml", sa.Text(), nullable=False),
        sa.Column("output_uri", sa.Text(), nullable=False),
        sa.Column("initial_model_uri", sa.Text(), nullable=False),
        sa.Column("reward_model_version", sa.BigInteger(), unique=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_runs_loop_id", "runs", ["loop_id"])


def _lineage() -> None:
    op.create_table(
        "reward_models",
        sa.Column("reward_model_version", BigId, primary_key=True, autoincrement=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("run_id", sa.String(63), sa.ForeignKey("runs.run_id"), nullable=False),
        sa.Column("loop_id", sa.String(63), nullable=False),
        sa.Column("project_id", sa.String(63), nullable=False),
        sa.Column("label_high_water_mark", sa.BigInteger(), nullable=False),
        sa.Column("label_hash", sa.String(128), nullable=False),
        sa.Column("rankings", sa.BigInteger(), nullable=False),
        sa.Column("heldout_accuracy", sa.Float(), nullable=False),
        sa.Column("noise_ceiling", sa.Float(), nullable=False),
        sa.Column("score_mean", sa.Float(), nullable=False),
        sa.Column("score_sd", sa.Float(), nullable=False),
        sa.Column("promoted", sa.Boolean(), nullable=False),
        sa.Column("gate", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "snapshot_labels",
        sa.Column("run_id", sa.String(63), sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("event_id", sa.String(64), primary_key=True),
    )
    op.create_index("ix_snapshot_labels_event_id", "snapshot_labels", ["event_id"])
    op.create_table(
        "policy_segments",
        sa.Column("run_id", sa.String(63), sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("reward_model_version", sa.BigInteger(), primary_key=True),
        sa.Column("first_policy_version", sa.BigInteger(), nullable=False),
        sa.Column("last_policy_version", sa.BigInteger(), nullable=False),
    )
