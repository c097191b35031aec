"""The commands over HTTP, on the client `guidsvc_client`: the extra `cli` of the package.

values     GUIDs, expiries, durations and JSON as people type them
profiles   the file of profiles: addresses and keys by name
target     which service a command talks to, and with which key
remote     the resources of a command: the client, the form of the output, notes
command    the base of all commands: common options, and the handling of errors
failures   exit codes and texts of errors
curl       the request of a command as a line for a shell
progress   the bar on a terminal
documents  records, renewals, events and identities as documents, and as members of tables
commands   a module for each group of commands
transfer   export and import
"""
