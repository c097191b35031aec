"""Mutants of the quota: the code with one guard removed; each must be found within a number of seeds.

The edits are of files in `guidsvc`.
"""

from tests.simulation.mutants import Mutant, run_on

_OTHERS = "without=self._reserved | {request.guid for request in self._live_requests})"

MUTANTS = (
    Mutant("wished GUIDs are not counted", {"domain/quota_ledger.py": (_OTHERS, "without=self._reserved | {request.guid for request in (*self._live_requests, *self._new_requests)})")}),
    Mutant("reserved places are free", {"domain/quota_ledger.py": ("room = self._quota - others - len(counted_guids)", "room = self._quota - others - len(live_guids)")}),
    Mutant("what is reserved has a place though it does not fit", {"domain/quota_ledger.py": ("counted_guids if room >= 0 else frozenset()", "counted_guids")}, seeds=600),
    Mutant("the room is not used up", {"domain/quota_ledger.py": ("            room=room,\n", "            room=self._room,\n")}),
    Mutant("what lives on is not reserved", {"domain/quota_ledger.py": ("for request in granted}", "for request in granted if not request.is_live(self._now)}")}, seeds=600),
    Mutant("a lost race for the ledger is passed over", {"services/quota_account.py": ("if new is not None and not await self._swap(old, new):", "if new is not None and not await self._swap(old, new) and False:")}),
    Mutant("nobody waits for a place", {"services/quota.py": ("begun, deadline = loop.time(), inf", "begun, deadline = 0.0, 0.0")}),
    Mutant("a slow store is taken for the wait for a place", {"services/quota.py": ("begun, deadline = loop.time(), inf", "begun, deadline = inf, loop.time() + self._wait_seconds")}),
    Mutant("a place is given back before the write", {"services/quota.py": ("        try:\n            yield not_after\n", "        self._end(account, request)\n        try:\n            yield not_after\n")}),
    Mutant("a place is given back though the write may land", {"services/quota.py": ("        except Unavailable:\n            self._end(account, request)\n            raise\n", "        except Exception:\n            self._end(account, request)\n            raise\n")}),
    Mutant("the store is not told how late", {"services/writes/record_writer.py": ("until = earliest(reserved_until, not_after)", "until = None")}),
)  # fmt: skip


def found_at(mutant: Mutant) -> int | None:
    """Run seeds on a mutant; return the first seed that finds it, or None."""
    return run_on(mutant, "--quota")
