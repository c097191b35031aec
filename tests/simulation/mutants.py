"""Mutants: the cache with one guard removed; the simulation must find each within a number of seeds."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """The replacements by file in `guidsvc`, and the number of seeds within which the mutant must be found."""

    name: str
    edits: Mapping[str, tuple[str, str]]
    seeds: int = 200
    faults: tuple[str, ...] = ()
    """The only faults of its world; if empty, the seed decides."""

    def apply(self, folder: Path) -> None:
        """Change the files of the package; each text must exist."""
        for file, (text, instead) in self.edits.items():
            path = folder / file
            source = path.read_text(encoding="utf-8")
            assert text in source, f"{self.name}: {file} does not hold {text!r}"
            path.write_text(source.replace(text, instead), encoding="utf-8")


_BOOT = "if redis.call('GET', KEYS[1]) ~= ARGV[1] .. history() then return false end\n"

MUTANTS = (
    Mutant("no token", {"cache/redis/scripts/fill.lua": ("if redis.call('GET', KEYS[2]) ~= 'T' .. ARGV[2] then return 0 end\n", "")}),
    Mutant("no marker", {"cache/redis/scripts/begin.lua": ("redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[2])\n", "redis.call('ZADD', KEYS[3], now, ARGV[2])\n")}),
    Mutant("BEGIN leaves the value", {"cache/redis/scripts/begin.lua": ("redis.call('DEL', KEYS[2])", "")}),
    Mutant("no lease wait", {"cache/write_window.py": ("if lease > 0:", "if lease < 0:")}),
    Mutant("READ records no lease", {"cache/redis/scripts/read.lua": ("not redis.pcall('SET', KEYS[place + 2], holder, 'PX', ARGV[5]).err", "true")}),
    Mutant("FILL records no lease", {"cache/redis/scripts/fill.lua": ("redis.call('SET', KEYS[4], holder, 'PX', ARGV[6])\n", "")}),
    Mutant("READ takes over another process's lease", {"cache/redis/scripts/read.lua": ("holder = '*' else", "holder = ARGV[4] else")}),
    Mutant("BEGIN forgets leases that have not expired", {"cache/redis/scripts/begin.lua": ("'-' .. (now + left)", "'-' .. now")}, seeds=600),
    Mutant("lease counted from the reply, not the request", {"cache/redis/cache.py": ("min(live, sent_at + ", "min(live, self._timer() + ")}, seeds=200, faults=("slow_answers",)),
    Mutant("lease not checked", {"cache/redis/cache.py": ("entry is not None and now < entry.until", "entry is not None")}),
    Mutant("a record is cached during its write", {"cache/redis/cache.py": ("if not readers.is_invalidated:", "if True:")}, seeds=600),
    Mutant("write before BEGIN", {"cache/redis/cache.py": (
        "            window = await self._windows.open(old.guid)\n            try:\n                until = earliest(window.not_after, not_after)\n                swapped = await self._records.swap(old, new, not_after=until, origin=origin)\n",
        "            try:\n                swapped = await self._records.swap(old, new)\n                window = await self._windows.open(old.guid)\n",
    )}),
    Mutant("a chain is written before BEGIN", {"cache/redis/cache.py": (
        "            window = await self._windows.open(guid)\n            bounded_swaps = [each._replace(not_after=earliest(window.not_after, each.not_after)) for each in swaps]\n            results = await self._records.swap_chain(bounded_swaps)\n",
        "            results = await self._records.swap_chain(swaps)\n            window = await self._windows.open(guid)\n",
    )}),
    Mutant("a chain gets no deadline", {"cache/redis/cache.py": (
        "each._replace(not_after=earliest(window.not_after, each.not_after)) for each in swaps", "each for each in swaps",
    )}, seeds=600, faults=("stragglers",)),
    Mutant("a chain stays in L1", {"cache/redis/cache.py": ("        guid = swaps[0].guid\n        with self._excluded_from_l1(guid):\n", "        guid = swaps[0].guid\n        if guid:\n")}, seeds=600),
    Mutant("marker expires before its write", {"cache/write_window.py": ("arguments = (marker, milliseconds(timing.marker), ", "arguments = (marker, 500, ")}),
    Mutant("cache filled by a read that is not linearizable", {"cache/redis/cache.py": ("await self._records.get_linearizable(guid)", "await self._records.get(guid)")}, seeds=200, faults=("stall",)),
    Mutant("a failed BEGIN is ignored", {"cache/write_window.py": ("            await self._monitor.off(view.fence, reason)\n            return None\n", "            lease = 0\n")}),
    Mutant("no wait for the fence lease", {"cache/write_window.py": ("wait = self._monitor.quiet_at(view) - self._timer()", "wait = 0.0")}),
    Mutant("no ARM", {"cache/fence_monitor.py": ("Fence(Mode.ARM, gen, epoch.name)", "Fence(Mode.ON, gen, epoch.name)")}),
    Mutant("fence set to ON without a wait", {"cache/fence_monitor.py": ("now >= view.since + self._timing.waiter_seconds(self._timing.fence_lease):", "now >= 0.0:")}, seeds=1000),
    Mutant("fence not checked", {"cache/redis/cache.py": ("if now < self.monitor.until:", "if True:"), "cache/fence_monitor.py": ("and self._timer() < self.until else None", "else None")}),
    Mutant("scripts do not check the epoch", {"cache/redis/scripts/read.lua": (_BOOT, ""), "cache/redis/scripts/fill.lua": (_BOOT, ""), "cache/redis/scripts/begin.lua": (_BOOT, "")}),
    Mutant("an epoch of another run id is accepted", {
        "cache/redis/link.py": ('epoch if epoch.startswith(self._run_id) else ""', "epoch"),
        "cache/redis/scripts/adopt.lua": ("if run == ARGV[1] and made == now and tonumber", "if made == now and tonumber"),
    }, seeds=1000),
    Mutant("an epoch of another history is accepted", {"cache/redis/scripts/history.lua": ("return '@' .. string.match(info, 'master_replid:(%w+)')", "return '@any'")}, seeds=200, faults=("switch_over",)),
    Mutant("a lost epoch is ignored", {
        "cache/fence_monitor.py": ("elif await self._link.epoch_lost(fence.epoch):", "elif False:"),
        "cache/write_window.py": ("epoch=view.fence.epoch)).value\n", "epoch=view.fence.epoch)).value or 0\n"),
    }, seeds=200, faults=("save_and_restart",)),
    Mutant("END removes the markers of other writers", {"cache/redis/scripts/end.lua": ("redis.call('ZREM', KEYS[3], ARGV[2])", "redis.call('DEL', KEYS[3])")}, seeds=600, faults=("slow_stores",)),
    Mutant("FILL takes over another process's lease", {"cache/redis/scripts/fill.lua": ("holder = '*' else", "holder = ARGV[5] else")}, seeds=600),
    Mutant("the store gets no deadline", {"cache/redis/cache.py": ("self._records.swap(old, new, not_after=until, origin=origin)", "self._records.swap(old, new)")}, seeds=600, faults=("stragglers",)),
    Mutant("fence lease counted from the reply, not the request", {"cache/fence_monitor.py": ("self.until = requested_at + ", "self.until = received_at + ")}, seeds=600, faults=("slow_answers", "cut_redis")),
    Mutant("a MongoDB write is not limited to its window", {"store/mongo/deadline.py": ("Deadline(not_after_ms - run_ms, run_ms)", "Deadline(not_after_ms, longest_ms)")}, seeds=600),
)  # fmt: skip


def found_at(mutant: Mutant) -> int | None:
    """Run seeds on a mutant; return the first seed that finds it, or None."""
    return run_on(mutant, "--faults", *mutant.faults)


def run_on(mutant: Mutant, *options: str) -> int | None:
    """Run the simulation with these options on a mutant; return the first seed that finds it, or None."""
    with TemporaryDirectory() as folder:
        copytree(ROOT / "guidsvc", Path(folder) / "guidsvc")
        mutant.apply(Path(folder) / "guidsvc")
        (Path(folder) / "tests").symlink_to(ROOT / "tests")
        arguments = ["-W", "ignore", "-m", "tests.simulation", "--seeds", str(mutant.seeds), "--until-found"]
        command = [sys.executable, *arguments, *options]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode not in {0, 1}:
        raise RuntimeError(result.stderr)
    return int(result.stdout.split()[-1]) if result.returncode else None
