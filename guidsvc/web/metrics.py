"""What Prometheus asks: `/metrics`."""

from guidsvc.web.base import Handler
from guidsvc.web.described import Answer, operation
from guidsvc.web.headers import VARY, always
from guidsvc.web.watch import Watch

PLAIN, OPEN = "text/plain", "application/openmetrics-text"


class MetricsHandler(Handler):
    """The metrics."""

    label = "health"

    def initialize(self, watch: Watch) -> None:
        self._watch = watch

    @operation(
        "getMetrics",
        "What was counted and measured",
        Answer(
            200,
            "The metrics.",
            other={PLAIN: "The metrics, a line each.", OPEN: "The same, as OpenMetrics."},
            headers=always(VARY),
        ),
    )
    async def get(self) -> None:
        """Answer with the metrics of all processes of the service, as Prometheus reads them."""
        content, media_type = await self._watch.render(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", media_type)
        self.vary("Accept")
        self.finish(content)

    head = get
