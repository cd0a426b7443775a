"""Accounts, runs over them, and the results of each."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the three tables."""
    op.create_table(
        "account",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(100), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("status", sa.String(300), nullable=True),
        sa.Column("status_at", sa.Double(), nullable=True),
        sa.Column("problem", sa.String(300), nullable=True),
        sa.Column("checked_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_account"),
        sa.UniqueConstraint("key", name="uq_account_key"),
    )
    op.create_index("ix_account_is_active_id", "account", ["is_active", "id"])
    op.create_table(
        "reload_run",
        sa.Column("id", sa.String(60), nullable=False),
        sa.Column("started_by", sa.String(5), nullable=False),
        sa.Column("retry_of", sa.String(60), nullable=True),
        sa.Column("retried_as", sa.String(60), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("changes", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.Double(), nullable=True),
        sa.Column("loaded_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("failed_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reload_run"),
    )
    op.create_index("ix_reload_run_created_at", "reload_run", ["created_at"])
    op.create_table(
        "reload_result",
        sa.Column("run_id", sa.String(60), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("account_key", sa.String(100), nullable=False),
        sa.Column("outcome", sa.String(7), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("answer", sa.String(300), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column("at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_id"], ["reload_run.id"], name="fk_reload_result_run_id_reload_run", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "account_id", name="pk_reload_result"),
    )
    _partial_index("slow", "duration_ms", "duration_ms IS NOT NULL")
    _partial_index("failing", "account_id", "outcome = 'failing'")


def _partial_index(name: str, column: str, condition: str) -> None:
    where = sa.text(condition)
    columns = ["run_id", column]
    op.create_index(
        f"ix_reload_result_{name}", "reload_result", columns, sqlite_where=where, postgresql_where=where
    )


def downgrade() -> None:
    """Drop them, and every account with them."""
    op.drop_table("reload_result")
    op.drop_table("reload_run")
    op.drop_table("account")
