"""The resource `/metrics`, for Prometheus."""

from guidsvc.api.base.handler import Handler
from guidsvc.api.contract.headers import VARY, always
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.domain.caller import MONITOR, Needs

METRICS = "/metrics"
COUNT_SECONDS = 1.0
"""Maximum wait of the metrics for a new count of all records. After that, they show the last known count."""
PLAIN, OPEN = "text/plain", "application/openmetrics-text"


class MetricsHandler(Handler):
    """The metrics of the service."""

    label = "health"

    def needs(self) -> Needs | None:
        return None if self.context.has_public_metrics else super().needs()

    @operation(
        "getMetrics",
        "Read the metrics",
        ResponseSpec(
            200,
            "The metrics.",
            other={PLAIN: "The metrics in the text format of Prometheus.", OPEN: "The metrics as OpenMetrics."},
            headers=always(VARY),
        ),
        required_scope=MONITOR,
    )
    async def get(self) -> None:
        """Return the metrics of all processes of the service, for Prometheus."""
        await self.context.statistics.refresh(COUNT_SECONDS)
        content, media_type = await self.context.monitor.render(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", media_type)
        self.vary("Accept")
        self.finish(content)

    head = get
