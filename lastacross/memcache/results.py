"""Keeps the module name that pickles contain for a peeked item (see ``pickled_names``)."""

from lastacross.memcache.client import ItemWithTimestamps

__all__ = ["ItemWithTimestamps"]
