"""The problem catalog: the cause and the remedy of each problem. The source of `/problems/{code}` and of OpenAPI."""

from collections.abc import Callable, Mapping
from typing import NamedTuple
from uuid import UUID

from pydantic_core import from_json

from guidsvc import errors
from guidsvc.api.contract import problems
from guidsvc.api.contract.problems import Problem, problem_of
from guidsvc.api.parsing.body import MAX_BYTES, type_fault, validate
from guidsvc.api.parsing.time_errors import EXAMPLE_TIME
from guidsvc.auth.authenticator import unknown_key
from guidsvc.auth.rate_limit import used_up
from guidsvc.domain.api_key import EXAMPLE_ID
from guidsvc.domain.caller import READ, WRITE, Caller
from guidsvc.domain.commands import PutCommand
from guidsvc.domain.leases.errors import ExpiresTooSoon, nothing_left
from guidsvc.domain.record import EXAMPLE, EXAMPLE_GUID, MAX_METADATA_BYTES, Record, parse_guid
from guidsvc.http.constants import JSON
from guidsvc.http.errors import (
    HeadersTooLarge,
    MethodNotAllowed,
    MisdirectedRequest,
    TooEarly,
    TooLarge,
    UnknownMethod,
    UnsupportedMediaType,
    VersionNotSupported,
)

_ID = "2f1c4d6e8a0b4c5d9e7f1a2b3c4d5e6f"
_VERSION = 1_795_420_608_123
_LIMIT = _VERSION // 1000 + 86_400
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
    """The documentation of a problem: when it occurs, what to do, and an error as an example."""

    when: str
    remedy: str
    error: Exception

    @property
    def problem(self) -> Problem:
        """The problem type of the example."""
        return problem_of(self.error)

    @property
    def example(self) -> dict[str, object]:
        """The example, rendered like a response."""
        rendered: dict[str, object] = from_json(problems.render(self.error, _ID))
        return rendered


def _raised(fails: Callable[[], object]) -> Exception:
    """Return the error that a function of the service raises, so that the example equals the response to clients."""
    try:
        fails()
    except errors.GuidsvcError as error:
        return error.with_traceback(None)
    raise AssertionError("the example is no error")


_ALL = (
    ProblemDoc(
        "The GUID in the path is not 32 characters of 0-9 and A-F.",
        "Write the GUID in upper case, without dashes or braces. The detail shows the correct form if it is clear.",
        _raised(lambda: parse_guid(str(UUID(EXAMPLE_GUID)))),
    ),
    ProblemDoc(
        "The body, the query or a header is invalid.",
        "Correct everything in errors. Each entry says where the fault is, and what is wrong. The detail is the first "
        "entry in words.",
        _raised(lambda: validate({"expire": EXAMPLE_TIME * 1000, "metdata": {}}, PutCommand, {"guid": EXAMPLE_GUID})),
    ),
    ProblemDoc(
        "The GUID was never registered, was deleted, or is past its retention period; or the API key or the path does "
        "not exist.",
        "Check the path. To register the GUID, PUT it.",
        errors.NotFound(EXAMPLE_GUID),
    ),
    ProblemDoc(
        "The path does not support this method.",
        "Use one of the methods in the header Allow.",
        MethodNotAllowed("DELETE", "GET, HEAD, POST, PUT, OPTIONS"),
    ),
    ProblemDoc(
        "No path supports this method, or the body has a transfer coding other than chunked.",
        "Use one of the methods that OPTIONS lists in Allow. Send the body without a transfer coding such as gzip.",
        UnknownMethod("put", "GET, HEAD, PUT, PATCH, DELETE, OPTIONS"),
    ),
    ProblemDoc(
        "The request uses a major version other than HTTP/1.",
        "Send HTTP/1.1.",
        VersionNotSupported("2.0"),
    ),
    ProblemDoc(
        "The GUID was valid until expired_at. Changes without an expiry fail too: a PATCH always, a PUT if the GUID "
        "was revoked (its expiry was already in the past when it was written). A PUT with revive false always fails.",
        "Treat the GUID as invalid. To renew it, send a future expire before renewable_until. A PUT may omit expire "
        "unless the GUID was revoked. A renewal needs revive, and says that a lease is lost. After renewable_until, "
        "the GUID is not found.",
        errors.Expired(EXAMPLE_GUID, expired_at=1_427_736_345, renewable_until=1_428_341_145),
    ),
    ProblemDoc(
        "The expiry is later than a limit allows, or a renewal would grant less than at_least. Nothing was changed.",
        "Ask for an expiry of at most max_expire. If the GUID has reached it, create another GUID. The operators of "
        "the service set the limits.",
        nothing_left(EXAMPLE_GUID, _LIMIT, _LIMIT),
    ),
    ProblemDoc(
        "The GUID is valid, but not for the seconds of valid_for.",
        "Renew the GUID, and read it again.",
        ExpiresTooSoon(EXAMPLE_GUID, expire=_LIMIT, left=37, valid_for=600),
    ),
    ProblemDoc(
        "The current record does not satisfy If-Match or If-None-Match. Nothing was changed.",
        "Look at the current record and ETag in this response (the record only if your key may read it). Decide "
        "whether your change still applies, and send it with that ETag. If another holder has a "
        "lease now, do not renew it.",
        errors.PreconditionFailed(EXAMPLE_GUID, _VERSION, _RECORD.json_body),
    ),
    ProblemDoc(
        "The service requires a precondition for every change of an existing record, and the request has none.",
        "Read the record and send its ETag as If-Match, or send If-Match: * to change any version.",
        errors.PreconditionRequired(EXAMPLE_GUID),
    ),
    ProblemDoc(
        "The service requires a key or token, and the request has none, or one that is malformed, unknown, revoked or "
        "expired.",
        "Send a valid key, as in Authorization: Bearer gs_... The operators of the service issue keys.",
        unknown_key(),
    ),
    ProblemDoc(
        "The key is valid but lacks the required scope, or the operation is disabled in this service.",
        "Ask the operators of the service for a key with the scope that the detail names.",
        _raised(lambda: Caller("alice", frozenset({READ}), f"key:{EXAMPLE_ID}").demand(WRITE)),
    ),
    ProblemDoc(
        "The key to rotate is revoked or expired.",
        "Create another key for its owner. A revoked or expired key cannot become valid again.",
        errors.KeyNotActive(EXAMPLE_ID, "revoked"),
    ),
    ProblemDoc(
        "The owner has reached its quota of live GUIDs, or ten times that number of stored GUIDs, live or expired. "
        "Nothing was changed.",
        "Delete GUIDs, including expired ones, or wait until some expire. Or ask the operators of the service for a "
        "larger quota.",
        errors.QuotaExceeded(1000),
    ),
    ProblemDoc(
        "The feed of events cannot continue at the cursor. The reason is trimmed (events after it were removed, "
        "by age or by the size of the log), rewound (the store was restored from a backup), or another-store.",
        "Save now of this response, read all GUIDs again with GET /guid?state=all, then follow the feed with now as "
        "cursor. Or follow it with oldest as cursor, and miss the events before it.",
        errors.EventsGone("trimmed", oldest="AmJkFzcAAAAAAAAAKhei", now="AmJkFzcAAAAAAAAEsoYv"),
    ),
    ProblemDoc(
        "The service, or the caller, has the maximum number of open streams of events. A caller may have a sixteenth, "
        "at least one. A stream of lines counts until its end, and a request that waits for an event counts too.",
        "Close a stream, or try again after the seconds in Retry-After. One stream can follow all your GUIDs. The "
        "operators of the service set the limit with --max-streams.",
        errors.TooManyStreams(31, is_own=True),
    ),
    ProblemDoc(
        "The key has exceeded its rate limit, or too many logins from this address have failed.",
        "Wait for the seconds in Retry-After, then send requests less often.",
        used_up(100, 1, 1),
    ),
    ProblemDoc(
        "An earlier request with this Idempotency-Key is still in progress.",
        "Send the same request again after the seconds in Retry-After: you get the response to the first one.",
        errors.InProgress(),
    ),
    ProblemDoc(
        "The Idempotency-Key was already used with another method, path, query, body or precondition.",
        "Use a new key for a new request. To retry a request, send it unchanged.",
        errors.IdempotencyMismatch(),
    ),
    ProblemDoc(
        "The stored responses to requests with an Idempotency-Key have reached the size limit of this owner or of the "
        "service. Nothing was changed.",
        "Send the request without the key, use PUT with your own GUID, or retry later. Responses are stored for 24 "
        "hours.",
        errors.ReceiptsFull(),
    ),
    ProblemDoc(
        f"The body is larger than {MAX_BYTES} bytes (4 MiB for a batch document), or the results of a batch are full.",
        f"Send a smaller body; the metadata of a record has at most {MAX_METADATA_BYTES} bytes. If a record did not "
        "fit into the results of a batch, read it with a separate request.",
        TooLarge(f"A body is at most {MAX_BYTES} bytes."),
    ),
    ProblemDoc(
        "The service does not accept the host name in the header Host or in the request target. Without access control "
        "on a loopback address, it accepts only loopback names, against DNS rebinding.",
        "Use localhost or 127.0.0.1. If clients need another name, the operators of the service can add it with "
        "--hosts.",
        MisdirectedRequest("registry.example"),
    ),
    ProblemDoc(
        "A proxy accepts TLS early data (0-RTT), and forwards a change from it with the header Early-Data. Anyone who "
        "recorded the request can replay it.",
        "Send the request again once the TLS handshake is complete; browsers do. The operators of the service can "
        "switch off early data in the proxy.",
        TooEarly(),
    ),
    ProblemDoc(
        "The request line and headers exceed the size limit, or there are more than 100 headers.",
        "Send fewer or shorter headers. Put long values into the body.",
        HeadersTooLarge(16_384, 100),
    ),
    ProblemDoc(
        "The method does not accept the Content-Type of the body, or the body has a Content-Encoding.",
        "Send JSON in UTF-8, uncompressed, with a Content-Type from the header Accept (for PATCH, Accept-Patch).",
        UnsupportedMediaType("POST", type_fault("POST", "text/plain", (JSON,)), (JSON,)),
    ),
    ProblemDoc(
        "An internal error occurred. If the request was a change, it may have taken effect.",
        "Report the request_id to the operators of the service: the log has the details under this id.",
        RuntimeError(),
    ),
    ProblemDoc(
        "The store (or for a write the cache) is unavailable, the service is overloaded or shutting down, or the "
        "request exceeded its time limit. Nothing was changed.",
        "Send the same request again after the seconds in Retry-After.",
        errors.StoreUnavailable(),
    ),
    ProblemDoc(
        "The store did not confirm a write in time. The write may have taken effect, may yet take effect, or may not.",
        "If the request has an Idempotency-Key and creates GUIDs that the service generates, send it again unchanged. "
        "Else read the record before you try again, or make the write safe to repeat with If-Match or If-None-Match. "
        "The guid, if there is one, is that of the record that may have been created.",
        errors.OutcomeUnknown(),
    ),
)

EXPLANATIONS: Mapping[str, ProblemDoc] = {each.problem.code: each for each in _ALL}
"""The documentation of all problems, by code."""
