"""A registry of GUIDs that expire, over HTTP.

The packages are layers. Each imports only packages below it:

    cli              the command line: serve, commands on the store, and in cli.remote those over HTTP
    doctor           checks of a set-up, each with what to do; they change nothing
    bootstrap        the composition root: opens, wires, serves and closes everything; reads the settings
    api              the REST API: routes, handlers, the fast path, problems, the OpenAPI document
    services         the use cases: records and API keys, quotas, idempotent requests
    auth             authentication, rate limits, lockouts, the audit log
    cache            caches that are never stale: in the process, or in Redis
    store            the contract of a store, and SQLite and MongoDB, which implement it
    server           the HTTP server: sockets, TLS, the HTTP/1.1 protocol
    process          the supervisor, its workers, signals
    monitoring       logs, metrics for Prometheus, and traces for OpenTelemetry
    runtime          building blocks for asyncio: admission control, locks, batching, cancellation
    http             HTTP semantics: headers, dates, errors
    config           the settings: flag, environment variable, default
    domain           records, API keys, callers, and the rules of their life cycles: pure functions
    telemetry        counters, histograms, and the trace of a request
    connection_urls  URLs that may hold a password, and how they may be shown
    optional_imports imports of packages that only some settings need
    foreign_variables variables of Kubernetes and of clients that look like settings
    program          the name of the command line in messages
    similarity       the known name that a misspelt name probably means
    system_errors    errors of the network and of TLS in plain words
    time_limit       a time limit for work that blocks, on a thread
    utf8             the size of texts in bytes
    bounded_file     reading of files that settings name, up to a size
    files            files that appear under their name only when they are complete
    errors           what can go wrong, in the words of the domain; knows no HTTP
"""

__version__ = "0.1.0"
