"""The error collector's tables: posted errors, their groups, hourly counts, and notifications."""

from sqlalchemy import BigInteger, Double, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from lastacross import datastore

HOUR = 3600
"""An hour in seconds; counts are kept by the hour."""


class ErrorGroup(datastore.Model):
    """A group of errors that count as the same. Times are in seconds since the epoch.

    ``count`` includes deleted errors; ``undigested`` is how many errors are not in any digest yet. The
    numbers in ``msg`` are masked: see grouping.py.
    """

    __tablename__ = "error_group"
    __table_args__ = (UniqueConstraint("account", "fingerprint"),)

    id: Mapped[str] = mapped_column(String(22), primary_key=True)
    account: Mapped[str] = mapped_column(String(100))
    fingerprint: Mapped[str] = mapped_column(String(64))
    type: Mapped[str] = mapped_column(String(200))
    server: Mapped[str] = mapped_column(String(200))
    msg: Mapped[str] = mapped_column(Text)
    status: Mapped[int]
    domain: Mapped[str] = mapped_column(String(255))
    first_at: Mapped[float] = mapped_column(Double)
    last_at: Mapped[float] = mapped_column(Double, index=True)
    priority: Mapped[int]
    count: Mapped[int] = mapped_column(default=0)
    undigested: Mapped[int] = mapped_column(default=0, index=True)


class ErrorReport(datastore.Model):
    """A posted error, with the group, browser, system and device that its task finds.

    ``uid`` comes from the sender, or is the error's own id if the sender did not give one. ``happened_at`` is
    the sender's ``timestamp``, and ``received_at`` comes from our clock. ``grouped_at`` ensures that the
    task's work is done once. ``size`` is the number of bytes that the report adds to ErrorUsage; None if it
    was never counted.
    """

    __tablename__ = "error_report"
    __table_args__ = (
        UniqueConstraint("account", "uid"),
        Index("ix_error_report_group", "group_id", "received_at"),
    )

    id: Mapped[str] = mapped_column(String(22), primary_key=True)
    account: Mapped[str] = mapped_column(String(100))
    uid: Mapped[str] = mapped_column(String(100))
    received_at: Mapped[float] = mapped_column(Double, index=True)
    happened_at: Mapped[float | None] = mapped_column(Double, default=None)
    url: Mapped[str] = mapped_column(Text)
    status: Mapped[int]
    type: Mapped[str] = mapped_column(String(200))
    msg: Mapped[str] = mapped_column(Text)
    server: Mapped[str] = mapped_column(String(200), default="")
    traceback: Mapped[str] = mapped_column(Text, default="")
    request: Mapped[str] = mapped_column(Text, default="")
    user_agent: Mapped[str] = mapped_column(Text, default="")
    username: Mapped[str] = mapped_column(String(200), default="")
    priority: Mapped[int]
    grouped_at: Mapped[float | None] = mapped_column(Double, default=None)
    group_id: Mapped[str | None] = mapped_column(
        String(22), ForeignKey("error_group.id", ondelete="CASCADE"), default=None
    )
    browser: Mapped[str] = mapped_column(String(100), default="")
    system: Mapped[str] = mapped_column(String(100), default="")
    device: Mapped[str] = mapped_column(String(100), default="")
    size: Mapped[int | None] = mapped_column(default=None)


class ErrorHour(datastore.Model):
    """How many errors a group received in an hour; ``hour`` is its start in seconds since the epoch."""

    __tablename__ = "error_hour"

    group_id: Mapped[str] = mapped_column(
        String(22), ForeignKey("error_group.id", ondelete="CASCADE"), primary_key=True
    )
    hour: Mapped[int] = mapped_column(primary_key=True, index=True)
    count: Mapped[int] = mapped_column(default=0)


class ErrorNotification(datastore.Model):
    """A notification that is sent once; ``key`` identifies its subject and is the webhook's idempotency key.

    ``body`` is the JSON for the webhook. ``logged_at`` is None until the notification is in the log, and
    ``sent_at`` until the webhook has accepted it. ``answer`` is the webhook's last refusal.
    """

    __tablename__ = "error_notification"

    id: Mapped[str] = mapped_column(String(22), primary_key=True)
    key: Mapped[str] = mapped_column(String(100), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    group_id: Mapped[str | None] = mapped_column(String(22), index=True, default=None)
    created_at: Mapped[float] = mapped_column(Double, index=True)
    text: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    logged_at: Mapped[float | None] = mapped_column(Double, default=None)
    sent_at: Mapped[float | None] = mapped_column(Double, default=None)
    answer: Mapped[str] = mapped_column(Text, default="")


class ErrorUsage(datastore.Model):
    """An account's posts in its newest hour; ``hour`` is its start in seconds since the epoch.

    The row whose account is "" holds the total size of all kept reports. It is always locked last.
    """

    __tablename__ = "error_usage"

    account: Mapped[str] = mapped_column(String(100), primary_key=True)
    hour: Mapped[int] = mapped_column(default=0)
    reports: Mapped[int] = mapped_column(default=0)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class ErrorRefusal(datastore.Model):
    """How many posts were refused in an hour, by reason; ``account`` is "" unless it reached its limit."""

    __tablename__ = "error_refusal"

    hour: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(String(20), primary_key=True)
    account: Mapped[str] = mapped_column(String(100), primary_key=True)
    count: Mapped[int] = mapped_column(default=0)
