"""A simulator of the task queue. Lua and Redis are real; everything around them is simulated from one seed.

Workers, producers, a consumer of pull tasks, operators, RQ's tools and a supervisor run the product's own
code in one thread and in virtual time. The network between them and Redis delivers messages on time, late,
twice or not at all. Processes are killed, clocks differ by up to two seconds, and Redis loses the end of its
append-only file. After each step, the judge compares the contents of Redis with the changes that the step may
make. At the end of each run, the faults stop, and all processes work until nothing is left.

    python -m tests.simulator --seed 7                  100,000 steps: the runs 7:0, 7:1, 7:2, …
    python -m tests.simulator --seed 7:12               one run; if it fails, its shortest trace
    python -m tests.simulator --seed 7:12 --trace       one run, step by step
    python -m tests.simulator --seed 7 --minutes 30     as long as you like
    python -m tests.simulator --seed 7 --mutant no_tombstone

| module | contents |
|---|---|
| `decisions` | the schedule of a run, and how a seed makes one |
| `network` | processes, threads and messages |
| `workers`, `actors` | the code of the processes |
| `world` | decides which process continues, what happens to a message, and what time it is |
| `server`, `dump.lua`, `snapshot` | the real Redis and its contents |
| `judge`, `steps`, `fan_in`, `limits`, `wakeups` | the rules |
| `runs`, `shrinking` | runs from seeds; the shortest list of decisions that still fails |
| `mutants/` | deliberate faults in the Lua, each of which the simulator must notice |
"""
