"""Mutants of the event log: the code without one of its guards. The simulation must find each within SEEDS seeds.

Each edit is the name of a file in `guidsvc`, with the text to replace.
"""

from tests.simulation.mutants import Mutant, run_on

_PACKAGE = "store/mongo/events/"
_SEQUENCER, _RETENTION, _OUTBOX, _STEPS = (
    f"{_PACKAGE}{name}.py" for name in ("sequencer", "retention", "outbox", "steps")
)
_TRIM, _READING = f"{_PACKAGE}archive/trim.py", f"{_PACKAGE}reading.py"
SEEDS = 30

MUTANTS = (
    Mutant("no unique key", {_SEQUENCER: ("name=BY_EVENT, unique=True)", "name=BY_EVENT)")}, SEEDS),
    Mutant("the head is remembered, and counted up, after a duplicate", {_SEQUENCER: (
        "        head = await self.head()\n",
        '        head = self.__dict__.get("memory") or await self.head()\n        self.__dict__["memory"] = Head(head.number + 1, head.total_bytes)\n',
    )}, SEEDS),
    Mutant("entries after a duplicate are inserted", {_SEQUENCER: ("documents, ordered=True)", "documents, ordered=False)")}, SEEDS),
    Mutant("the outbox is drained before the entries are acknowledged", {_SEQUENCER: (
        "        moved = await self._append(head, batch)\n        if moved:\n            await self._operations.write(partial(self._remove, moved))\n",
        "        moved = batch.entries\n        await self._operations.write(partial(self._remove, moved))\n        await self._append(head, batch)\n",
    )}, SEEDS),
    Mutant("an outbox with entries is not pending", {_OUTBOX: ("left, pending=pending)", 'left, pending="$$REMOVE")')}, SEEDS),
    Mutant("the log is trimmed beyond entries in outboxes", {_RETENTION: ("        cut = await self._before_undrained(documents[:cut])\n", "")}, SEEDS),
    Mutant("the newest entry is trimmed", {_RETENTION: (
        "last = head.number - 1\n", "last = head.number\n",
    )}, SEEDS),
    Mutant("an entry has the age of its event", {_RETENTION: ('document.get("appended")', 'document.get("at")')}, SEEDS),
    Mutant("the floor is raised after the deletion", {_RETENTION: (
        "        return cut if cut and await",
        '        await self._operations.write(partial(self._log.delete_many, {"_id": {"$lte": documents[cut - 1]["_id"] if cut else 0}}))\n        return cut if cut and await',
    )}, SEEDS),
    Mutant("entries are deleted as soon as they are trimmed", {_RETENTION: ("head.number > self._cuts[0].newest + BATCH", "True")}, 1000),
    Mutant("an expiry before a write is not logged", {_OUTBOX: ("[*owed, {", "[{")}, SEEDS),
    Mutant("a write does not check the stage", {_OUTBOX: ('{"$lt": [_number("$g.stage", 0), stage]}', '{"$literal": True}')}, SEEDS),
    Mutant("a step is executed for a replaced version", {_STEPS: (
        'same = _same_as(document) | {"g.stage": stage, "g.due": due}', 'same = {"_id": document["_id"]}',
    )}, SEEDS),
    Mutant("a duplicate is drained before a majority has it", {_SEQUENCER: (
        "found = self._log.find(wanted, dict.fromkeys(KEY, 1))",
        'found = self._log.with_options(read_concern=__import__("pymongo.read_concern").read_concern.ReadConcern("local")).find(wanted)',
    )}, 120, ("no_majority",)),
    Mutant("an entry below the floor counts", {_SEQUENCER: ("if number > floor]", "if number > 0]")}, 120),
    Mutant("the outboxes are read before the head", {_SEQUENCER: (
        "moved = await self._append(head, batch)", "moved = await self._append(await self.head(), batch)",
    ), _RETENTION: ("head.number > self._cuts[0].newest + BATCH", "head.number > self._cuts[0].newest")}, 200),
    Mutant("a record is deleted with entries in its outbox", {_OUTBOX: ('IS_DRAINED: dict[str, Any] = {"g.pending": None}', "IS_DRAINED: dict[str, Any] = {}")}, 120),
    Mutant("trimmed entries are not archived", {_TRIM: ("        await self._add(found, oldest)\n", "")}, SEEDS),
    Mutant("entries are removed from the archive before the shares are saved", {_TRIM: (
        "        if not await self._save(bounds, raised, shares):\n            return 0\n        await self._delete(shares, owners)\n",
        "        await self._delete(shares, owners)\n        if not await self._save(bounds, raised, shares):\n            return 0\n",
    )}, 120),
    Mutant("a page of the archive is not checked again", {_READING: (
        "entries, looked_to = await self._read(archive, (after, last), limit, selection, queue_name)\n        await self._require_untrimmed(after, owner)\n",
        "entries, looked_to = await self._read(archive, (after, last), limit, selection, queue_name)\n",
    )}, 120, ("slow", "stragglers")),
    Mutant("entries in outboxes are archived", {_RETENTION: ("documents[: await self._before_undrained(documents)]", "documents")}, 120),
)  # fmt: skip


def found_at(mutant: Mutant) -> int | None:
    """Run seeds on a mutant; return the first that finds it, or None."""
    return run_on(mutant, "--events", "--faults", *mutant.faults)
