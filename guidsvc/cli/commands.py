"""The table of the commands. A command is imported only when it is used, and Click with it: a service needs neither."""

SERVE, HELP = "serve", "help"
"""Words that are no commands of the table: the first is the default, the second prints the help."""
COMPLETION_VARIABLE = "_GUIDSVC_COMPLETE"
"""The variable by which a shell asks for the completion of the words."""

COMMANDS: dict[str, str] = {
    "keys": "guidsvc.cli.keys.command:keys",
    "backup": "guidsvc.cli.local.backup:backup",
    "healthcheck": "guidsvc.cli.local.healthcheck:healthcheck",
}
"""Commands by name: the module and, after a colon, the attribute, which is a `click.Command`."""

SUMMARIES: dict[str, str] = {
    SERVE: "start the service; the default",
    "keys": "create, list, rotate and revoke API keys",
    "backup": "copy the SQLite store while the service runs",
    "healthcheck": "check whether the service on this host is alive, or ready",
    HELP: "print this help; `help COMMAND` describes a command",
}
"""What each command does, in the order of the help."""
