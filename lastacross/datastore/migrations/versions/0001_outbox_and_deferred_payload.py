"""The outbox of transactional adds, and the bodies of large deferred calls.

Revision 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_row_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "lastacross_outbox",
        sa.Column("id", _row_id, nullable=False),
        sa.Column("queue", sa.String(100), nullable=False),
        sa.Column("task_id", sa.String(601), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_lastacross_outbox"),
        sa.UniqueConstraint("task_id", name="uq_lastacross_outbox_task_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_lastacross_outbox_created_at", "lastacross_outbox", ["created_at"])
    op.create_table(
        "lastacross_deferred_payload",
        sa.Column("id", _row_id, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_lastacross_deferred_payload"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_lastacross_deferred_payload_created_at", "lastacross_deferred_payload", ["created_at"]
    )


def downgrade() -> None:
    op.drop_table("lastacross_deferred_payload")
    op.drop_table("lastacross_outbox")
