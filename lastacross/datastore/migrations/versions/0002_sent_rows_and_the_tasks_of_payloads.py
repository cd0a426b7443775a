"""Add sent and set-aside outbox rows, and the tasks of large deferred calls.

Revision 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("lastacross_outbox", sa.Column("sent_at", sa.Double(), nullable=True))
    op.add_column("lastacross_outbox", sa.Column("set_aside_at", sa.Double(), nullable=True))
    op.add_column("lastacross_outbox", sa.Column("error", sa.Text(), nullable=True))
    op.drop_index("ix_lastacross_outbox_created_at", "lastacross_outbox")
    op.create_index("ix_lastacross_outbox_sent_at", "lastacross_outbox", ["sent_at", "id"])
    op.add_column("lastacross_deferred_payload", sa.Column("task_id", sa.String(601), nullable=True))
    op.add_column("lastacross_deferred_payload", sa.Column("unused_since", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("lastacross_deferred_payload", "unused_since")
    op.drop_column("lastacross_deferred_payload", "task_id")
    op.drop_index("ix_lastacross_outbox_sent_at", "lastacross_outbox")
    op.create_index("ix_lastacross_outbox_created_at", "lastacross_outbox", ["created_at"])
    for column in ("error", "set_aside_at", "sent_at"):
        op.drop_column("lastacross_outbox", column)
