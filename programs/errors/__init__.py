"""The error collector: other sites post their errors, which are grouped and notified."""
