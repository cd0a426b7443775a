"""Invoices and their lines."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the two tables."""
    op.create_table(
        "invoice",
        sa.Column("number", sa.String(30), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("customer", sa.String(200), nullable=False),
        sa.Column("customer_vat", sa.String(20), nullable=False),
        sa.Column("country", sa.String(2), nullable=False),
        sa.Column("terms", sa.String(3), nullable=False),
        sa.Column("nature_of_transaction", sa.String(2), nullable=False),
        sa.Column("mode_of_transport", sa.String(1), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_invoice"),
    )
    op.create_index("ix_invoice_date", "invoice", ["date"])
    op.create_table(
        "invoice_line",
        sa.Column("invoice_number", sa.String(30), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("commodity_code", sa.String(8), nullable=False),
        sa.Column("country_of_origin", sa.String(2), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("net_mass_grams", sa.BigInteger(), nullable=False),
        sa.Column("supplementary_units", sa.Integer(), nullable=True),
        sa.Column("value_cents", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["invoice_number"],
            ["invoice.number"],
            name="fk_invoice_line_invoice_number_invoice",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("invoice_number", "place", name="pk_invoice_line"),
    )


def downgrade() -> None:
    """Drop them, and every invoice with them."""
    op.drop_table("invoice_line")
    op.drop_table("invoice")
