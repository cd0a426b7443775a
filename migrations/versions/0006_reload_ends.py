"""Runs of the batch reload: one at a time, and those that were lost."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two columns; what runs now holds no place, and is found by its missing end."""
    op.add_column("reload_run", sa.Column("lost_at", sa.Double(), nullable=True))
    op.add_column("reload_run", sa.Column("place", sa.Integer(), nullable=True))
    op.create_index("ix_reload_run_place", "reload_run", ["place"], unique=True)


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_reload_run_place", table_name="reload_run")
    with op.batch_alter_table("reload_run") as table:
        table.drop_column("place")
        table.drop_column("lost_at")
