"""A reload: the workers are replaced one by one, until all have the same settings.

The first new worker decides. If it cannot start, the current workers stay. Once it serves, its settings are in force,
and the reload retries until every worker has them: with the former ones, a worker might let others in, or use another
store. After RETRY_SECONDS, the reload ends the workers that still have the former settings.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import structlog

from guidsvc.errors import SettingsChanged, StartError
from guidsvc.process.slot import Backoff, Slot
from guidsvc.process.worker import Worker

RETRY_SECONDS = 30.0
"""No attempt begins later than this after the first failure, and no reload waits longer for dead workers."""

_log = structlog.get_logger(__name__)


class Starter(Protocol):
    """Starts and ends workers."""

    settings: str
    """The fingerprint of the settings in force, which a new worker must have; empty if it may have any."""

    async def forget_settings(self) -> str:
        """Let the next worker have any settings; return the former ones."""

    async def replace(self, slot: Slot) -> None:
        """Start a worker, and then end the former one of its slot. Raise StartError if it cannot serve."""

    async def retire(self, worker: Worker) -> None:
        """Let a worker finish its requests, and wait until it has ended."""


class _Fault(NamedTuple):
    slot: Slot
    error: StartError


class Reload:
    """One reload of the workers in these slots."""

    def __init__(self, slots: Sequence[Slot], starter: Starter) -> None:
        self._slots, self._starter = slots, starter
        self._former: set[Worker | None] = set()
        """The workers to replace; empty until a new one serves."""
        self._backoff = Backoff()
        self._retry_until: float | None = None

    async def run(self) -> None:
        """Replace the workers."""
        _log.info("reload started", workers=len(self._slots))
        fault = await self._adopt_settings()
        if self._former:
            await self._replace_others(fault)
        elif fault is not None:
            error, number = str(fault.error), fault.slot.number
            _log.error("reload failed, keeping the current workers", error=error, worker=number)
        else:
            _log.warning("reload skipped, all workers are starting", workers=len(self._slots))

    async def _adopt_settings(self) -> _Fault | None:
        """Start the first worker with the settings that can be read now. If it serves, they are in force."""
        former_settings = await self._starter.forget_settings()
        workers = {slot.worker for slot in self._slots}
        slot = next((each for each in self._slots if not each.changing.locked()), None)
        fault = None if slot is None else await self._replace(slot)
        if self._starter.settings:  # that worker serves, or one in place of a dead worker
            self._former = workers
        else:
            self._starter.settings = former_settings
        return fault

    async def _replace_others(self, fault: _Fault | None) -> None:
        """Replace workers until all are new. If the settings change meanwhile, begin again with the first worker."""
        while (fault := fault or await self._replace_former()) is not None:
            if self._is_time_over():
                await self._end_former(fault)
                return
            delay = self._backoff.after(0)
            self._report("reload incomplete, retrying", fault, retry_in_seconds=delay)
            await asyncio.sleep(delay)
            fault = await self._adopt_settings() if isinstance(fault.error, SettingsChanged) else None
        await self._wait_for_restarts()
        _log.info("reload finished", workers=len(self._running()))

    async def _wait_for_restarts(self) -> None:
        """Wait, for at most RETRY_SECONDS, until the workers serve that are being restarted in place of dead ones."""
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS):
                for slot in self._slots:
                    async with slot.changing:
                        pass

    async def _replace_former(self) -> _Fault | None:
        """Try to replace each former worker. Return the last fault; stop at once if the settings have changed."""
        last = None
        for slot in filter(self._is_former, self._slots):
            last = await self._replace(slot) or last
            if last is not None and isinstance(last.error, SettingsChanged):
                break
        return last

    def _is_former(self, slot: Slot) -> bool:
        """Return whether the slot has a former worker. A dead one is being replaced already, by one like the others."""
        return slot.worker in self._former and not slot.changing.locked()

    async def _replace(self, slot: Slot) -> _Fault | None:
        try:
            await self._starter.replace(slot)
        except StartError as error:
            return _Fault(slot, error)
        return None

    def _is_time_over(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._retry_until is None:
            self._retry_until = now + RETRY_SECONDS
        return now >= self._retry_until

    async def _end_former(self, fault: _Fault) -> None:
        """End the workers whose settings are not in force; each is then restarted like a dead one."""
        workers = {slot: slot.worker for slot in filter(self._is_former, self._slots) if self._has_other_settings(slot)}
        if workers:
            self._report("reload failed, ending the workers with the former settings", fault)
        else:
            self._report("reload failed, keeping workers that have the new settings already", fault)
        for slot in workers:
            slot.stop_listening(self._slots)  # new connections go to the others
        await asyncio.gather(*(self._starter.retire(worker) for worker in workers.values() if worker is not None))

    def _has_other_settings(self, slot: Slot) -> bool:
        return slot.worker is not None and slot.worker.settings != self._starter.settings

    def _running(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.worker is not None and not slot.changing.locked()]

    def _report(self, event: str, fault: _Fault, **fields: object) -> None:
        """Log a fault, and which workers have which settings."""
        running = self._running()
        _log.error(
            event,
            error=str(fault.error),
            worker=fault.slot.number,
            new_settings=[slot.number for slot in running if not self._has_other_settings(slot)],
            former_settings=[slot.number for slot in running if self._has_other_settings(slot)],
            **fields,
        )
