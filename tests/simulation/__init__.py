"""The cache of several processes in a simulated world, in which a seed decides every delay, loss, pause and death.

The code under test is the served code itself: `redis.cache`, `fence_monitor` and `redis.link` of `guidsvc.cache`, and
the Lua scripts. Simulated are the event loop and its time (`world`), Redis with its connections (`redis`), and the
store (`store`). `faults` injects faults, `run` sends the requests, and `tests.support.history_checker` checks the
responses. `mutants` removes one guard of the code at a time, to prove that the simulation detects a missing guard.

The quota has a world of its own, `quota`, in which the service and the quota run over a simulated store, with its
own mutants in `quota_mutants`.

    python -m tests.simulation --quota --seeds 9  run nine seeds of the quota alone
    python -m tests.simulation --seeds 2000       run this many seeds, from 0 on
    python -m tests.simulation --seed 17 --trace  run one seed, and print each event
    python -m tests.simulation --mutants          run each mutant until it is found
"""
