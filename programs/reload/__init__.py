"""The batch reload: each account's status is fetched by a task."""
