"""Last Across: App Engine's application model on Redis and RQ."""

__version__ = "0.1.0"
