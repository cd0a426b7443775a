"""The programs: each folder is one, with its pages, tables, tasks, templates and scripts."""
