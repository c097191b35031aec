"""The event log on MongoDB: an outbox in the document of each record, which a sequencer drains into the log.

entry_documents  entries as documents, and selections of entries as filters
outbox           the outbox of a record's document: the updates that add to it and take from it
sequencer        appends the entries in outboxes to the log
retention        removes old entries
archive          removed entries of owners within their share
reading          reads the log
steps            executes due steps: warnings, expiries, purges
lease            leases, which prevent that several processes do the same work
server_clock     the clock of the server, and how far this host differs from it
operations       runs single operations within their time limits
log              the event log that these make up
"""
