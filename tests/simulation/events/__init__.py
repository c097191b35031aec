"""The event log of MongoDB in the simulated world: processes that write, append, cut off and read at the same time.

    server      a MongoDB of two shards, whose primaries fail
    collection  the way of a process to it
    run         the processes, and what goes wrong with them
    judge       what must hold
    mutants     the code with one guard taken out of it

The code under test is `guidsvc.store.mongo.events`, as it is served, but for the leases: all processes append.

    python -m tests.simulation --events --seeds 100
"""
