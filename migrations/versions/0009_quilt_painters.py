"""The worker and the time of each square of a quilt."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. They are nullable, because the previous release does not fill them."""
    op.add_column("quilt_square", sa.Column("worker", sa.Integer(), nullable=True))
    op.add_column("quilt_square", sa.Column("after_ms", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Drop them."""
    with op.batch_alter_table("quilt_square") as table:
        table.drop_column("after_ms")
        table.drop_column("worker")
