"""The counting program: a master task, subtasks on a backend, and a log."""
