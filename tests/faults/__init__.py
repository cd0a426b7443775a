"""Causes faults one after the other, and prints one table of what each one cost: ``make faults``.

    python -m tests.faults                                  all rows, each with the parts that matter to it
    python -m tests.faults --rows kill,storm --database postgresql --server redis --preload 0
    python -m tests.faults --out table.md

Each row runs real tasks on a Redis of its own while one fault happens, and the rules of
``tests/support/history_rules.py`` judge what became of them.
"""
