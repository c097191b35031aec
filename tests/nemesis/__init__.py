"""The service under a nemesis: real processes, Redis, stores and sockets, faults by a seed, and a checked history.

cluster    the hosts, the servers behind them, and their proxies
faults     what goes wrong, and when
load       the clients, who note what they ask and are told
verdict    what a run showed, and whether that is worth anything
__main__   `python -m tests.nemesis`, which `make nemesis` runs
"""
