"""The fast path: common requests for one GUID, served without a Tornado handler."""
