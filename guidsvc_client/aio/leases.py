"""Leases of the async client: a task renews them, and cancels the task of the block when they are lost."""

import asyncio
import logging
from contextlib import suppress
from types import TracebackType
from typing import Self

from guidsvc_client.aio.session import AsyncSession
from guidsvc_client.errors import LeaseLost
from guidsvc_client.lease_state import BaseLease, LeaseState
from guidsvc_client.protocol import lease_flows
from guidsvc_client.protocol.lease_flows import Plan

log = logging.getLogger("guidsvc_client")


class AsyncLease(BaseLease):
    """A lease that a task renews: `async with client.lease(...) as lease`.

    If the lease is lost, the block is cancelled where it waits, and raises LeaseLost at its end. Call `check()` before
    each step that needs the lease and does not wait. Blocks may follow each other.
    """

    _STATEMENT = "async with"

    def __init__(self, session: AsyncSession, plan: Plan) -> None:
        policy = session.policy.within(plan.ttl_seconds / 4)
        super().__init__(plan, policy.timeout_seconds)
        self._session = session.with_policy(policy)
        self._renewal: asyncio.Task[None] | None = None
        self._holder: asyncio.Task[object] | None = None
        self._cancellations = 0
        self._has_cancelled = False

    async def __aenter__(self) -> Self:
        with self._entering() as plan:
            self._state = LeaseState(plan, await self._session.run(lease_flows.acquire(plan)))
            self._holder = asyncio.current_task()
            self._cancellations = self._holder.cancelling() if self._holder else 0
            self._has_cancelled = False
            self._renewal = asyncio.create_task(self._renew(self._state), name=f"lease {self.guid}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._leaving() as state:
            is_cancelled = await self._end_renewal(error)
            if not state.is_lost:
                await self._release(state)
        if state.is_lost and (error is None or is_cancelled):
            raise state.loss() from error
        if state.is_lost and error is not None and not isinstance(error, LeaseLost | asyncio.CancelledError):
            error.add_note(str(state.loss()))

    async def _renew(self, state: LeaseState) -> None:
        """Renew until the lease is released; cancel the block if it is lost."""
        while not state.is_lost:
            with suppress(TimeoutError):
                async with asyncio.timeout(state.remaining_seconds):
                    await asyncio.sleep(state.seconds_until_renewal)
                    await self._renew_once(state)
        if self._holder:
            self._has_cancelled = True
            self._holder.cancel()

    async def _renew_once(self, state: LeaseState) -> None:
        try:
            state.extend(await self._session.run(state.renewal()))
        except asyncio.CancelledError:
            state.interrupt()
            raise
        except Exception as error:  # noqa: BLE001  # also that of a hook: the loss must be noticed whatever it is
            log.debug("lease %s not renewed: %r", self.guid, error)
            state.fail(error)

    async def _end_renewal(self, error: BaseException | None) -> bool:
        """Stop the renewal. Return whether the block was cancelled by the loss of the lease, and by nothing else."""
        assert self._renewal is not None  # noqa: S101  # nosec B101  # the block has begun
        self._renewal.cancel()
        try:
            await asyncio.wait({self._renewal})
        except asyncio.CancelledError:  # the cancellation came as the block ended
            if not self._has_cancelled:
                raise
        if not self._has_cancelled or self._holder is None:
            return False
        is_only_by_loss = self._holder.uncancel() <= self._cancellations
        return is_only_by_loss and isinstance(error, asyncio.CancelledError)

    async def _release(self, state: LeaseState) -> None:
        try:
            async with asyncio.timeout(self._release_seconds(state)):
                await self._session.run(state.release())
        except LeaseLost as error:
            state.fail(error)
        except Exception as error:  # noqa: BLE001  # also that of a client that was closed in the block
            log.warning("lease %s not released; it expires by itself: %r", self.guid, error)
