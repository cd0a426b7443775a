"""The batch reload, in which each account's status is fetched by a task."""
