"""The batch reload, in which a task fetches each account's status."""
