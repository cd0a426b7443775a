"""Errors that were posted, their groups, counts by the hour, notifications."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the four tables."""
    op.create_table(
        "error_group",
        sa.Column("id", sa.String(22), nullable=False),
        sa.Column("account", sa.String(100), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("server", sa.String(200), nullable=False),
        sa.Column("msg", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("domain", sa.String(255), nullable=False),
        sa.Column("first_at", sa.Double(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("undigested", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_error_group"),
        sa.UniqueConstraint("account", "fingerprint", name="uq_error_group_account"),
    )
    op.create_index("ix_error_group_last_at", "error_group", ["last_at"])
    op.create_index("ix_error_group_undigested", "error_group", ["undigested"])
    _create_reports()
    op.create_table(
        "error_hour",
        sa.Column("group_id", sa.String(22), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["error_group.id"], name="fk_error_hour_group_id_error_group", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("group_id", "hour", name="pk_error_hour"),
    )
    op.create_index("ix_error_hour_hour", "error_hour", ["hour"])
    op.create_table(
        "error_notification",
        sa.Column("id", sa.String(22), nullable=False),
        sa.Column("key", sa.String(100), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("group_id", sa.String(22), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("logged_at", sa.Double(), nullable=True),
        sa.Column("sent_at", sa.Double(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_error_notification"),
        sa.UniqueConstraint("key", name="uq_error_notification_key"),
    )
    op.create_index("ix_error_notification_created_at", "error_notification", ["created_at"])
    op.create_index("ix_error_notification_group_id", "error_notification", ["group_id"])


def _create_reports() -> None:
    op.create_table(
        "error_report",
        sa.Column("id", sa.String(22), nullable=False),
        sa.Column("account", sa.String(100), nullable=False),
        sa.Column("uid", sa.String(100), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("happened_at", sa.Double(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("msg", sa.Text(), nullable=False),
        sa.Column("server", sa.String(200), nullable=False),
        sa.Column("traceback", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("user_agent", sa.Text(), nullable=False),
        sa.Column("username", sa.String(200), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("grouped_at", sa.Double(), nullable=True),
        sa.Column("group_id", sa.String(22), nullable=True),
        sa.Column("browser", sa.String(100), nullable=False),
        sa.Column("system", sa.String(100), nullable=False),
        sa.Column("device", sa.String(100), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["error_group.id"], name="fk_error_report_group_id_error_group", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_error_report"),
        sa.UniqueConstraint("account", "uid", name="uq_error_report_account"),
    )
    op.create_index("ix_error_report_received_at", "error_report", ["received_at"])
    op.create_index("ix_error_report_group", "error_report", ["group_id", "received_at"])


def downgrade() -> None:
    """Drop them, and every error with them."""
    for table in ("error_hour", "error_report", "error_notification", "error_group"):
        op.drop_table(table)
