"""One folder per program, with its pages, tables, tasks, templates and scripts."""
