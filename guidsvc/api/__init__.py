"""The HTTP contract: routes in `app`, one file a resource, problems (RFC 9457) in `problems`.

A handler parses, calls the service and replies. Nothing here holds a rule of the domain, and nothing below
here knows HTTP.
"""
