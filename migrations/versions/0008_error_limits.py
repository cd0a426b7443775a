"""What errors take up, and how many posts were refused."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TEXTS = ("url", "type", "msg", "server", "traceback", "request", "user_agent", "username")
_OVERHEAD_BYTES = 1000


def upgrade() -> None:
    """Make a column and two tables; count the errors that are there."""
    op.add_column("error_report", sa.Column("size", sa.Integer(), nullable=True))
    op.create_table(
        "error_usage",
        sa.Column("account", sa.String(100), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("reports", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account", name="pk_error_usage"),
    )
    op.create_table(
        "error_refusal",
        sa.Column("hour", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("reason", sa.String(20), nullable=False),
        sa.Column("account", sa.String(100), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "reason", "account", name="pk_error_refusal"),
    )
    _count_what_is_there()


def _count_what_is_there() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    length = "length(CAST({} AS BLOB))" if is_sqlite else "octet_length({})"
    sizes = " + ".join(length.format(name) for name in _TEXTS)
    op.execute(f"UPDATE error_report SET size = {_OVERHEAD_BYTES} + {sizes}")
    op.execute(
        "INSERT INTO error_usage (account, hour, reports, bytes) "
        "SELECT '', 0, 0, COALESCE(SUM(size), 0) FROM error_report"
    )


def downgrade() -> None:
    """Drop them; the counts are lost."""
    op.drop_table("error_refusal")
    op.drop_table("error_usage")
    with op.batch_alter_table("error_report") as table:
        table.drop_column("size")
