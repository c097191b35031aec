"""`guidsvc watch`: a line for each event, across restarts of the service and gaps in the log."""

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from guidsvc_client import Client
from tests.support.backing_servers import START_SECONDS, Service, service, wait_until
from tests.support.command_line import CommandLine
from tests.support.scripted_server import Request, problem, scripted_server


class Watcher:
    """A `guidsvc watch` process."""

    def __init__(self, folder: Path, url: str, *words: str) -> None:
        self.process, self.out, self.err = CommandLine(folder, url).start("watch", *words)

    @property
    def events(self) -> list[Any]:
        """The events that it has printed so far."""
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def wait_for(self, count: int) -> None:
        """Wait until it has printed `count` events, and return them."""
        wait_until(lambda: len(self.events) >= count, f"{count} events", self.err, START_SECONDS)

    def interrupt(self) -> int:
        """Send SIGINT, like Ctrl-C, and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(START_SECONDS)


@contextmanager
def watching(folder: Path, url: str, *words: str) -> Iterator[Watcher]:
    """Run a watch within the block."""
    watcher = Watcher(folder, url, *words)
    try:
        yield watcher
    finally:
        watcher.process.kill()


def test_watch_continues_after_a_restart_of_the_service(tmp_path: Path) -> None:
    with service(tmp_path) as running, Client(running.url) as client:
        first = client.create(user="a")
        with watching(tmp_path, running.url, "--since", "oldest") as watcher:
            watcher.wait_for(1)
            second = client.create(user="b")
            watcher.wait_for(2)
            running.stop()
            running.start()
            third = client.with_options(retries=10).create(user="c")
            watcher.wait_for(3)
            assert watcher.interrupt() == 130
            assert [event["guid"] for event in watcher.events] == [first.guid, second.guid, third.guid]
            assert [event["type"] for event in watcher.events] == ["guid.created"] * 3
            cursor = watcher.events[-1]["cursor"]
        assert f"to continue after the last event, add --since {cursor}" in watcher.err.read_text()
        fourth = client.create(user="d")
        with watching(tmp_path, running.url, "--since", cursor) as again:
            again.wait_for(1)
            assert [event["guid"] for event in again.events] == [fourth.guid]


def test_watch_starts_at_the_newest_event_and_filters(tmp_path: Path) -> None:
    with service(tmp_path) as running, Client(running.url) as client:
        client.create(user="earlier")
        words = ["--type", "guid.created,guid.deleted", "--type", "guid.renewed", "--user", "a"]
        with watching(tmp_path, running.url, *words) as watcher:
            seen = 0
            while not watcher.events:  # the watch connects some time after its start
                record = client.create(user="a")
                seen += 1
                time.sleep(0.05)
            client.put(record.guid, user="a", metadata={"n": 1})
            client.delete(record.guid)
            client.create(user="other")
            last = client.create(user="a")
            wait_until(lambda: watcher.events[-1]["guid"] == last.guid, "the last event", watcher.err, START_SECONDS)
            assert {event["record"]["user"] for event in watcher.events} == {"a"}
            assert [event["type"] for event in watcher.events][-2:] == ["guid.deleted", "guid.created"]


def test_missed_events_are_reported(tmp_path: Path) -> None:
    """The cursor is that of another store."""
    (tmp_path / "other").mkdir()
    with service(tmp_path / "other") as other, Client(other.url) as client:
        client.create(user="a")
        feed = client.events(follow=False)
        list(feed)
    with service(tmp_path) as running, Client(running.url) as client:
        made = client.create(user="b")
        with watching(tmp_path, running.url, "--since", feed.cursor or "") as watcher:
            watcher.wait_for(1)
            assert [event["guid"] for event in watcher.events] == [made.guid]
        assert "events were missed: the service has another store now" in watcher.err.read_text()


async def test_watch_pauses_between_gaps(tmp_path: Path) -> None:
    """This happens if the log is trimmed faster than it is read, or if another program responds."""
    moments: list[float] = []
    members = {"reason": "trimmed", "oldest": "a", "now": "b"}

    def answer(_: Request) -> bytes:
        moments.append(time.monotonic())
        return problem("events-gone", 410, members)

    async with scripted_server(answer) as server:
        with watching(tmp_path, server.url) as watcher:
            async with asyncio.timeout(START_SECONDS):
                while len(moments) < 5:
                    await asyncio.sleep(0.05)
            assert watcher.err.read_text().count("events were missed") >= 4
    assert moments[4] - moments[1] > 0.25 * 0.5 * (2 + 4 + 8)


def test_watch_fails_at_once_without_a_service(tmp_path: Path) -> None:
    done = CommandLine(tmp_path, "http://127.0.0.1:1")("watch")

    assert (done.code, done.out) == (6, "")
    assert "no connection" in done.err


@pytest.mark.parametrize(("words", "code"), [(["--since", "oops"], 1), (["--type", "oops"], 1), (["--guid", "x"], 2)])
def test_wrong_option_ends_the_watch(cli: CommandLine, running: Service, words: list[str], code: int) -> None:
    done = cli("watch", *words)

    assert (done.code, done.out) == (code, "")


def test_table_has_a_row_for_each_event(tmp_path: Path) -> None:
    with service(tmp_path) as running, Client(running.url) as client:
        made = client.create(user="a\u202eb", ttl=3600)
        with watching(tmp_path, running.url, "--since", "oldest", "-o", "table") as watcher:
            wait_until(lambda: watcher.out.read_text().count("\n") == 1, "a row", watcher.err, START_SECONDS)
        row = watcher.out.read_text()
    assert row.split()[1:4] == ["guid.created", made.guid, "a\\u202eb"]
    assert re.search("expires in (59m|1h)", row)
