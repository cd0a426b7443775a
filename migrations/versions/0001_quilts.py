"""Quilts and their squares.

Revision 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the two tables."""
    op.create_table(
        "quilt",
        sa.Column("id", sa.String(22), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("columns", sa.Integer(), nullable=False),
        sa.Column("delay_ms", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("painted", sa.Integer(), nullable=False),
        sa.Column("batch_id", sa.String(400), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("failed_count", sa.Integer(), nullable=False),
        sa.Column("cancelled_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_quilt"),
    )
    op.create_table(
        "quilt_square",
        sa.Column("quilt_id", sa.String(22), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("column", sa.Integer(), nullable=False),
        sa.Column("color", sa.String(7), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["quilt_id"], ["quilt.id"], name="fk_quilt_square_quilt_id_quilt", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("quilt_id", "row", "column", name="pk_quilt_square"),
        sa.UniqueConstraint("quilt_id", "position", name="uq_quilt_square_quilt_id"),
    )


def downgrade() -> None:
    """Drop them, and every quilt with them."""
    op.drop_table("quilt_square")
    op.drop_table("quilt")
