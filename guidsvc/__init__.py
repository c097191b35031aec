"""A registry of GUIDs that expire, over HTTP.

The map of the package. A request flows one way, and imports run the same way:

    connection -> web (handler) -> service -> cache -> store

    config     Settings: flag, environment variable, default; read by app only
    errors     what can go wrong, in the words of the domain; knows no HTTP
    models     Guid and Record: what a valid value is
    bodies     what clients send: the bodies and queries of requests
    rules      pure functions: what a change makes of a record, when it has expired
    signing    the public keys that tokens are signed with; only this imports PyJWT
    keyset     the set of them in a file or at a URL, kept up to date
    tokens     JWT bearer tokens: who asks with one, and until when it is good
    service    GuidService: get, put, create, delete over a Store and a clock
    portions   reading a selection a portion at a time
    quota      how many live records an owner may have, whoever creates them at once
    retention_quota how many records of an owner are kept, live or expired
    ledger     what of that is reserved, and how much room is left: pure functions
    access     callers, their scopes, and whose a record is
    keys       API keys: what one looks like, what is kept of it, whether it opens
    key_bodies what clients send of keys, and the queries of lists of them
    keyring    API keys as they are dealt out: created, listed, rotated, revoked
    keys_command the same by the command line: `python pdapt.py keys`
    healthcheck_command asks a running service whether it is alive: `python pdapt.py healthcheck`
    guarding   whether access is controlled, and the guard opened with all that it needs
    backup_command a copy of the SQLite store by the command line: `python pdapt.py backup`
    audit      AuditLog: who did what to which GUID, a line each
    guard      Guard: who asks, by the key that is shown; what is remembered of that, and for how long
    turns      who writes one GUID in this process does so one by one
    idempotency requests that may be sent again, done once
    receipts   how many bytes what is remembered of them may take
    attempt    what one attempt at such a request has begun
    temporary_space how many bytes temporary files may take, for each request and in all
    limits     how often a caller may ask, in all processes, and the rations in which a process books that
    lockouts   from where log-ins failed too often
    errand     what is done because somebody waits for it, and what is left when nobody does
    descriptors file descriptors: the limit, and how many connections may take
    memory     giving freed memory back to the system
    background work that goes on beside other work, and ends with it
    urls       URLs that may hold a password: how they may be shown
    fair_queue a queue whose groups take turns
    fair_places places that groups share: how many each has, and who waits for one
    fair_semaphore such places, to be waited for
    batching   many callers, one call: group commit, shared round trips
    meters     plain instruments: whoever counts is given some
    metric_files the files in which several processes put their metrics together
    bounded_file reading of files that settings name: regular ones only, up to a size
    value_file one such file, written so that a full disk is an error and no signal
    tracing    what is noted of one request while it is done: where its record came from, what it waited for
    store/     Store, the contract; SQLite and MongoDB keep it
    cache/     a cache is a Store that wraps a Store; in the process, or in Redis with leases in each process
    web/       the HTTP contract: the connection layer, the short way, routes, handlers, problems, and the document
               that tells of them
    line_limit a rate limit for log lines that clients can cause; lines beyond it are counted
    logs       structlog: readable on a terminal, JSON otherwise
    standard_streams standard output and error: a bounded buffer each, and a thread that empties it
    app        the one place where all this is opened, wired, served and closed
    hosts      what reads HTTP, as the settings say
    stopping   what ends a process, and that requests under way finish first
    supervisor several workers on one port: started, replaced, ended
    worker     a worker as its supervisor sees it
    listeners  sockets that share a port: closed for a while, and bound again as they were
    post       what a worker is handed, and what it tells
"""

__version__ = "0.1.0"
