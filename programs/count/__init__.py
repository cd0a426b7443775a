"""The counting program: a master task, sub tasks on a backend, and a log."""
