"""Counting runs, their intervals, and the log that is kept with them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the three tables."""
    op.create_table(
        "count_run",
        sa.Column("id", sa.String(22), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("delay_ms", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("changes", sa.Integer(), nullable=False),
        sa.Column("handed_out_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("is_cancelled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_count_run"),
        sa.UniqueConstraint("name", name="uq_count_run_name"),
    )
    op.create_index("ix_count_run_created_at", "count_run", ["created_at"])
    op.create_table(
        "count_interval",
        sa.Column("run_id", sa.String(22), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("first", sa.Integer(), nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.Column("counted", sa.Integer(), nullable=False),
        sa.Column("instance", sa.String(100), nullable=True),
        sa.Column("numbers", sa.Text(), nullable=True),
        sa.Column("changed", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["count_run.id"], name="fk_count_interval_run_id_count_run", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "place", name="pk_count_interval"),
    )
    op.create_table(
        "count_line",
        sa.Column("run_id", sa.String(22), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("instance", sa.String(100), nullable=False),
        sa.Column("text", sa.String(300), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["count_run.id"], name="fk_count_line_run_id_count_run", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "number", name="pk_count_line"),
    )


def downgrade() -> None:
    """Drop them, and every run with them."""
    op.drop_table("count_line")
    op.drop_table("count_interval")
    op.drop_table("count_run")
