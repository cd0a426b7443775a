"""Sends messages to browsers, like App Engine's ``channel`` but without losing any in transit.

``create_channel`` gives a page the signed right to read a client id's messages. ``send_message`` sends a
message from anywhere, and ``send_messages`` sends several in one call. The page reads them with
``goog.appengine.Channel`` of ``/_ah/channel/jsapi``, or with a plain EventSource on
``/_ah/channel/stream?token=…``. Unlike on App Engine, messages wait for a page that is still loading or has
lost its connection.
"""

from lastacross.channel.frames import MAX_MESSAGE_LENGTH
from lastacross.channel.messages import last_id, send_message, send_messages
from lastacross.channel.tokens import MAX_CLIENT_ID_BYTES, create_channel
from lastacross.channel.web import end_streams, write_directly
from lastacross.errors import (
    ChannelError,
    InvalidChannelClientIdError,
    InvalidChannelTokenDurationError,
    InvalidMessageError,
)

Error = ChannelError

MAXIMUM_CLIENT_ID_LENGTH = MAX_CLIENT_ID_BYTES
MAXIMUM_MESSAGE_LENGTH = MAX_MESSAGE_LENGTH

__all__ = [
    "MAXIMUM_CLIENT_ID_LENGTH",
    "MAXIMUM_MESSAGE_LENGTH",
    "Error",
    "InvalidChannelClientIdError",
    "InvalidChannelTokenDurationError",
    "InvalidMessageError",
    "create_channel",
    "end_streams",
    "last_id",
    "send_message",
    "send_messages",
    "tokens",
    "web",
    "write_directly",
]
