"""The public names that queued calls use for deferred functions."""

from lastacross.pickled_names import pickled_as

queued = pickled_as("workers")
"""Make queued calls refer to this function as ``workers.<name>``, wherever it is defined.

Releases with different layouts read each other's queued calls. ``workers`` re-exports every such function.
"""
