"""The fast path: common requests for one GUID, pages of lists, and fixed answers, served without a Tornado handler."""
