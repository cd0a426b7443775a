"""The jobs of cron.yaml and the history of their runs.

Revision 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "lastacross_cron_job",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("timezone", sa.String(100), nullable=False),
        sa.Column("deployed_at", sa.Double(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=True),
        sa.Column("run_id", ROW_ID, nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_lastacross_cron_job"),
    )
    op.create_table(
        "lastacross_cron_run",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("job", sa.String(100), nullable=False),
        sa.Column("task_name", sa.String(200), nullable=True),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("cause", sa.String(8), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_lastacross_cron_run"),
        sa.UniqueConstraint("task_name", name="uq_lastacross_cron_run_task_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_lastacross_cron_run_job", "lastacross_cron_run", ["job", "id"])
    op.create_index("ix_lastacross_cron_run_state", "lastacross_cron_run", ["state", "created_at"])


def downgrade() -> None:
    op.drop_table("lastacross_cron_run")
    op.drop_table("lastacross_cron_job")
