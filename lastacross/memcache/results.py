"""The module under which pickles carry a peeked item (``pickled_names``)."""

from lastacross.memcache.client import ItemWithTimestamps

__all__ = ["ItemWithTimestamps"]
