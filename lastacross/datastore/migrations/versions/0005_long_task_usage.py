"""Add each long task's storage and their total.

Revision 0005.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ROW_BYTES = 1_000

# octet_length is new in SQLite 3.43. For a blob, and for JSON, which is ASCII, length gives the same result.
FILL = f"""
UPDATE lastacross_long_task SET stored_bytes = {ROW_BYTES} + length(path) + length(given) + result_size
    + coalesce(length(parameters), 0)
    + coalesce((SELECT sum(length(body)) FROM lastacross_long_task_file
                WHERE task_id = lastacross_long_task.id), 0)
WHERE expired_at IS NULL
"""
SUM_UP = """
INSERT INTO lastacross_long_task_usage (id, stored_bytes)
SELECT 1, sum(stored_bytes) FROM lastacross_long_task HAVING sum(stored_bytes) > 0
"""


def upgrade() -> None:
    op.add_column(
        "lastacross_long_task", sa.Column("stored_bytes", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.create_index("ix_lastacross_long_task_status", "lastacross_long_task", ["status"])
    op.create_table(
        "lastacross_long_task_usage",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_lastacross_long_task_usage"),
    )
    op.execute(FILL)
    op.execute(SUM_UP)


def downgrade() -> None:
    op.drop_table("lastacross_long_task_usage")
    op.drop_index("ix_lastacross_long_task_status", "lastacross_long_task")
    op.drop_column("lastacross_long_task", "stored_bytes")
