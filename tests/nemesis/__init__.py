"""The service under a nemesis: real processes, Redis, stores and sockets, faults by a seed, and a checked history.

cluster    the hosts, the servers behind them, and their proxies
faults     the faults that are injected, and when
load       the clients, which record their requests and the replies
verdict    the result of a run, and whether it is conclusive
__main__   `python -m tests.nemesis`, which `make nemesis` runs
"""
