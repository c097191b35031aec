"""The cache of many processes in a simulated world, where a seed decides every delay, loss, pause and death.

The code under test is the very code that is served: `redis.cache`, `fence_monitor` and `redis.link` of `guidsvc.cache`,
and the Lua scripts. Simulated are the loop and its time (`world`), Redis with its connections (`redis`), and the store
(`store`). `faults` decides what goes wrong, `run` what is asked, and `tests.support.history_checker` judges what was
answered. `mutants` takes one guard after the other out of the code, to see that its lack is found.

The quota has a world of its own, `quota`, in which the service and the quota run over a simulated store, with its
own mutants in `quota_mutants`.

    python -m tests.simulation --quota --seeds 9  run seeds of the quota alone
    python -m tests.simulation --seeds 2000       run so many seeds, from 0 on
    python -m tests.simulation --seed 17 --trace  run one again, event by event
    python -m tests.simulation --mutants          see each mutant die
"""
