"""What each problem means, in words for those who meet it: for the document, and for `/problems/{code}`."""

from collections.abc import Mapping
from typing import NamedTuple

from pydantic_core import from_json

from guidsvc import errors
from guidsvc.api.contract import problems
from guidsvc.api.contract.problems import Problem, problem_of
from guidsvc.api.parsing.body import MAX_BYTES
from guidsvc.domain.api_key import EXAMPLE_ID
from guidsvc.domain.record import EXAMPLE, EXAMPLE_GUID, MAX_METADATA_BYTES, Record
from guidsvc.errors import InvalidField
from guidsvc.http.constants import JSON
from guidsvc.http.errors import (
    HeadersTooLarge,
    MethodNotAllowed,
    MisdirectedRequest,
    NotImplementedHere,
    TooLarge,
    UnsupportedMediaType,
    VersionNotSupported,
)

_ID = "2f1c4d6e8a0b4c5d9e7f1a2b3c4d5e6f"
_VERSION = 1_795_420_608_123
_RECORD = Record(
    guid=EXAMPLE_GUID,
    user=EXAMPLE["user"],
    expire=int(EXAMPLE["expire"]),
    version=_VERSION,
    created=_VERSION,
    updated=_VERSION,
    purge_at=int(EXAMPLE["expire"]) + 604_800,
)


class ProblemDoc(NamedTuple):
    """When a problem happens, what to do, and an error that is one."""

    when: str
    remedy: str
    error: Exception

    @property
    def problem(self) -> Problem:
        """The kind of problem."""
        return problem_of(self.error)

    @property
    def example(self) -> dict[str, object]:
        """The problem as it is answered."""
        rendered: dict[str, object] = from_json(problems.render(self.error, _ID))
        return rendered


_ALL = (
    ProblemDoc(
        "What stands in the path is not 32 characters of 0-9 and A-F.",
        "Write the GUID in upper case, without dashes and braces. The detail says what was meant, where that is clear.",
        errors.InvalidGuid(
            f"A GUID is 32 upper-case hexadecimal characters, without dashes or braces: use {EXAMPLE_GUID}."
        ),
    ),
    ProblemDoc(
        "Something in the body, the query or a header is not as it must be.",
        "Correct all that is listed in errors: each says where it is and what is wrong with it.",
        errors.InvalidRequest(
            InvalidField("/expire", "must be Unix time in seconds, as a string of digits or an integer"),
            InvalidField("", "is not a query parameter that is known here", parameter="colour"),
        ),
    ),
    ProblemDoc(
        "The GUID never was, was deleted, or is past its retention; or there is no such key, or nothing at this path.",
        "Check the path. To register the GUID, PUT it.",
        errors.NotFound(EXAMPLE_GUID),
    ),
    ProblemDoc(
        "The path is served, but not by this method.",
        "Take one of the methods that the header Allow lists.",
        MethodNotAllowed("POST", "GET, HEAD, PUT, PATCH, DELETE, OPTIONS"),
    ),
    ProblemDoc(
        "The service knows no such method at any path, or the body has a transfer coding other than chunked.",
        "Use one of the methods that OPTIONS lists in Allow; send the body without a coding such as gzip.",
        NotImplementedHere("No path serves this method; this one serves GET, HEAD, PUT, PATCH, DELETE, OPTIONS."),
    ),
    ProblemDoc(
        "The request is of another major version of HTTP.",
        "Send HTTP/1.1.",
        VersionNotSupported("HTTP/2.0 is not spoken here; send HTTP/1.1."),
    ),
    ProblemDoc(
        "The GUID is known, and was valid until expired_at. A change answers so too: a PATCH without an expiry never "
        "renews, and neither does a PUT without one if the GUID was revoked (its expiry was in the past when written).",
        "Treat the GUID as not valid. To renew it, send a future expire before renewable_until; a PUT may leave it out "
        "unless the GUID was revoked. After renewable_until the GUID is not found.",
        errors.Expired(EXAMPLE_GUID, expired_at=1_427_736_345, renewable_until=1_428_341_145),
    ),
    ProblemDoc(
        "The record is not, or no longer, as If-Match or If-None-Match demands. Nothing was changed.",
        "Look at the record (if the key may read it) and the ETag that come with the problem, and decide anew.",
        errors.PreconditionFailed(EXAMPLE_GUID, _VERSION, _RECORD.json_body),
    ),
    ProblemDoc(
        "The service is set up to change a record only for those who say which version of it they know.",
        "Read the record, and send its ETag as If-Match; or If-Match: * to change any.",
        errors.PreconditionRequired(EXAMPLE_GUID),
    ),
    ProblemDoc(
        "Access is controlled, and the request shows no key, or one that is mistyped, unknown, revoked or expired.",
        "Send a good key, as in Authorization: Bearer gs_...; those who run the service hand them out.",
        errors.Unauthorized("This key is not known, or no longer good.", invalid=True),
    ),
    ProblemDoc(
        "The key is good, and has not the scope that this takes; or nobody may do this here.",
        "Ask those who run the service for a key with that scope.",
        errors.Forbidden("write"),
    ),
    ProblemDoc(
        "The key that is to be rotated was revoked, or has expired.",
        "Create another for its owner: what has ended does not come back.",
        errors.KeyNotActive(EXAMPLE_ID, "revoked"),
    ),
    ProblemDoc(
        "The owner of the key has as many live GUIDs as it may have, or ten times as many are kept, live or expired. "
        "Nothing was changed.",
        "Delete some, expired ones too, or wait until some expire; or ask those who run the service for a larger "
        "quota.",
        errors.QuotaExceeded(1000),
    ),
    ProblemDoc(
        "The key is used more often than it may be, or too many log-ins have failed from this address.",
        "Ask again after the seconds in Retry-After, and less often.",
        errors.RateLimited("This key is used more often than it may be.", 1),
    ),
    ProblemDoc(
        "The request with this Idempotency-Key came before, and is still being done.",
        "Send it again after the time in Retry-After: you get the answer of the first.",
        errors.InProgress(),
    ),
    ProblemDoc(
        "The Idempotency-Key was sent with another request: another body, path or query.",
        "Take a new key for a new request. To send a request again, send it exactly as it was.",
        errors.IdempotencyMismatch(),
    ),
    ProblemDoc(
        "The requests with an Idempotency-Key that are remembered, of this owner or of all, take all the bytes that "
        "they may. Nothing was done.",
        "Send it without the key, or as a PUT with a GUID of your own; or later: each is remembered for 24 hours.",
        errors.ReceiptsFull(268_435_456),
    ),
    ProblemDoc(
        f"The body is over {MAX_BYTES} bytes; or, in a batch, the results have no room for this one.",
        f"Send less: the metadata of a record are at most {MAX_METADATA_BYTES} bytes. Read a record that had no room "
        "with a request of its own.",
        TooLarge(f"A body is at most {MAX_BYTES} bytes."),
    ),
    ProblemDoc(
        "The header Host, or the authority of an absolute target, is a name under which the service does not answer. "
        "Without access control on a loopback address it answers to loopback names only, so that no web page can use "
        "it under a name of its own.",
        "Use localhost or 127.0.0.1. If clients need another name, those who run the service add it with --hosts.",
        MisdirectedRequest(),
    ),
    ProblemDoc(
        "The request line and the headers have more bytes than any request needs, or there are more than 100 headers.",
        "Send fewer or shorter headers; what is long belongs in the body.",
        HeadersTooLarge("The head of a request is at most 16384 bytes and 100 headers."),
    ),
    ProblemDoc(
        "Content-Type is not what this method reads, or the body is compressed.",
        "Send JSON in UTF-8, as one of the media types in the header Accept, for a PATCH Accept-Patch.",
        UnsupportedMediaType("POST", f"A body of POST is {JSON}, in UTF-8.", (JSON,)),
    ),
    ProblemDoc(
        "The service has a fault. Nothing is known of what was changed.",
        "Tell those who run the service the request_id: it finds what happened in the log.",
        RuntimeError(),
    ),
    ProblemDoc(
        "The store, or for a write the cache, does not answer; there is more to do than can be done in time, or the "
        "request took longer than it may; or the service is about to end. Nothing was changed.",
        "Send the same request again after the seconds in Retry-After.",
        errors.StoreUnavailable(),
    ),
    ProblemDoc(
        "A write was sent to the store, and no answer came: it may have happened, may yet happen, or may not.",
        "Read the record before you try again; or make the write safe to send twice, with If-Match or If-None-Match.",
        errors.OutcomeUnknown(),
    ),
)

EXPLANATIONS: Mapping[str, ProblemDoc] = {each.problem.code: each for each in _ALL}
"""Each problem explained, by its code."""
