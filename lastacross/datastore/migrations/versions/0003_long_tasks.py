"""Long tasks and the files that came with them.

Revision 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lastacross_long_task",
        sa.Column("id", sa.String(43), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("method", sa.String(8), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("queue_name", sa.String(100), nullable=False),
        sa.Column("task_name", sa.String(500), nullable=True),
        sa.Column("join_key", sa.String(64), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("delivery", sa.Integer(), nullable=False),
        sa.Column("claim", sa.String(22), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("attempted_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("next_try_at", sa.Double(), nullable=True),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("expires_seconds", sa.Double(), nullable=False),
        sa.Column("expired_at", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("result_kind", sa.String(5), nullable=True),
        sa.Column("result_size", sa.Integer(), nullable=False),
        sa.Column("given", sa.Text(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_lastacross_long_task"),
        sa.UniqueConstraint("join_key", name="uq_lastacross_long_task_join_key"),
    )
    op.create_index("ix_lastacross_long_task_expiry", "lastacross_long_task", ["expired_at", "expires_at"])
    op.create_table(
        "lastacross_long_task_file",
        sa.Column("task_id", sa.String(43), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id"],
            ["lastacross_long_task.id"],
            name="fk_lastacross_long_task_file_task_id_lastacross_long_task",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("task_id", "position", name="pk_lastacross_long_task_file"),
    )


def downgrade() -> None:
    op.drop_table("lastacross_long_task_file")
    op.drop_table("lastacross_long_task")
