"""Simulation of the MongoDB event log: processes that write, append, trim and read concurrently.

    server      a MongoDB of two shards, whose primaries fail
    collection  its collections, as a process accesses them
    run         the processes and their faults
    judge       the properties that must hold
    mutants     the code without one of its guards

The code under test is `guidsvc.store.mongo.events`, unchanged except for the leases: all processes append.

    python -m tests.simulation --events --seeds 100
"""
