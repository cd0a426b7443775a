"""The error collector groups the errors that other sites post, and sends notifications."""
