"""Quilts by their age."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make an index: for the quilts under way, and for those that are old."""
    op.create_index("ix_quilt_created_at", "quilt", ["created_at"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_quilt_created_at", table_name="quilt")
