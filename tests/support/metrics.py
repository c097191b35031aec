"""Parse the metrics page like Prometheus."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from tests.support.http_client import Client

POLL_SECONDS = 0.1
"""Pause before the metrics are read again, which takes milliseconds of CPU."""
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    """Parse the metrics page."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return the value of a metric, 0 if it has none."""
    return samples.get((name, frozenset(labels.items())), 0)


def label_values(samples: Samples, label: str) -> set[str]:
    """Return all values of a label."""
    return {dict(labels)[label] for _, labels in samples if label in dict(labels)}


async def scrape(client: Client) -> Samples:
    """Request and parse the metrics."""
    return read(await _page(client))


async def until_cached(client: Client) -> None:
    """Return when the service uses its cache: one in Redis must be healthy for a while first."""
    while True:
        page = await _page(client)  # to parse all of it so often would take a second of CPU
        samples = read(
            "\n".join(line for line in page.splitlines() if line.startswith("guidsvc_fence{") or "redis" in line)
        )
        if "redis" not in label_values(samples, "cache") or value(samples, "guidsvc_fence", mode="on") == 1:
            return
        await asyncio.sleep(POLL_SECONDS)


async def _page(client: Client) -> str:
    reply = await client.get("/metrics")
    assert reply.status == 200
    return reply.body.decode()
