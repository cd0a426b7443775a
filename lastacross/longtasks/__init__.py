"""Long tasks: any handler becomes a long computation that is started, watched, bookmarked and fetched.

An application imports ``longtask``, the top-level module; docs/longtasks.md is its manual.
"""
