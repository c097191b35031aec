"""The GUIDs themselves: `/guid` and `/guid/{guid}`."""

from guidsvc.models import Change, Creation, Patch, parse_guid
from guidsvc.service import GuidService
from guidsvc.web.base import Handler


class GuidHandler(Handler):
    """One GUID, named in the path."""

    def initialize(self, service: GuidService) -> None:
        self._service = service

    async def get(self, text: str) -> None:
        """Answer with the record of a live GUID."""
        record, modified = await self._service.get(self._guid(text), self.read_conditions())
        self.reply_record(200 if modified else 304, record)

    head = get

    async def put(self, text: str) -> None:
        """Create the GUID, or merge the members that are given into its record."""
        guid = self._guid(text)
        change = self.read_body(Change, guid=guid)
        record, created = await self._service.put(guid, change, self.read_conditions())
        if created:
            self.set_header("Location", f"/guid/{guid}")
        self.reply_record(201 if created else 200, record)

    async def patch(self, text: str) -> None:
        """Apply a JSON merge patch to the record of the GUID, which must exist."""
        guid = self._guid(text)
        patch = self.read_body(Patch, guid=guid)
        self.reply_record(200, await self._service.patch(guid, patch, self.read_conditions()))

    async def delete(self, text: str) -> None:
        """Delete the GUID, live or expired."""
        await self._service.delete(self._guid(text), self.read_conditions())
        self.reply(204)

    def _guid(self, text: str) -> str:
        self.check_query()
        return parse_guid(text)


class GuidsHandler(Handler):
    """All GUIDs: where new ones are drawn."""

    def initialize(self, service: GuidService) -> None:
        self._service = service

    async def post(self) -> None:
        """Create a record under a GUID that the service draws."""
        self.check_query()
        record = await self._service.create(self.read_body(Creation), self.read_conditions())
        self.set_header("Location", f"/guid/{record.guid}")
        self.reply_record(201, record)

    put = post
