"""What the memcache client hands out beside values."""

from typing import Any

from lastacross.memcache.cache import Entry

DELETE_NETWORK_FAILURE = 0
DELETE_ITEM_MISSING = 1
DELETE_SUCCESSFUL = 2

# What set_multi_async and its like answer for each key.
STORED = 1
NOT_STORED = 2
ERROR = 3
EXISTS = 4


class ItemWithTimestamps:
    """What ``peek`` returns: a value and its instants in whole seconds since the epoch."""

    def __init__(self, value: Any, entry: Entry) -> None:
        is_lock = entry.kind == "L"
        self.value = value
        self.expiration_time_sec = 0 if is_lock else int(entry.expires_at)
        # Redis keeps no access time for us: the instant of the last write stands in.
        self.last_access_time_sec = int(entry.stored_at)
        self.delete_lock_time_sec = int(entry.expires_at) if is_lock else 0

    def get_value(self) -> Any:
        """The value; "" where a deletion holds the key locked."""
        return self.value

    def get_expiration_time_sec(self) -> int:
        """When the value expires."""
        return self.expiration_time_sec

    def get_last_access_time_sec(self) -> int:
        """When the value was last written."""
        return self.last_access_time_sec

    def get_delete_lock_time_sec(self) -> int:
        """Until when the key is locked, 0 if it is not."""
        return self.delete_lock_time_sec
