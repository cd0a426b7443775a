"""Last Across: App Engine's application model on Redis and RQ."""

import os

__version__ = "0.1.0"

# An empty variable counts as unset, because RQ would reject it when imported.
if not os.environ.get("RQ_KEY_PREFIX", "rq").strip():
    del os.environ["RQ_KEY_PREFIX"]
