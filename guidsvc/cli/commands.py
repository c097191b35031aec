"""The table of the commands. A command is imported only when it is used, and Click with it: a service needs neither."""

SERVE, HELP = "serve", "help"
"""Words that are no commands of the table: the first is the default, the second prints the help."""
COMPLETION_VARIABLE = "_GUIDSVC_COMPLETE"
"""The variable by which a shell asks for the completion of the words."""

COMMANDS: dict[str, str] = {
    "config": "guidsvc.cli.local.config:config",
    "doctor": "guidsvc.cli.local.doctor:doctor",
    "demo": "guidsvc.cli.local.demo:demo",
    "keys": "guidsvc.cli.keys.command:keys",
    "backup": "guidsvc.cli.local.backup:backup",
    "healthcheck": "guidsvc.cli.local.healthcheck:healthcheck",
    "completion": "guidsvc.cli.local.completion:completion",
}
"""Commands by name: the module and, after a colon, the attribute, which is a `click.Command`."""

SUMMARIES: dict[str, str] = {
    SERVE: "start the service; the default",
    "config": "print the settings in force, and where each comes from",
    "doctor": "find what is wrong with the set-up, and say what to do",
    "demo": "create sample GUIDs of all kinds, or remove them",
    "keys": "create, list, rotate and revoke API keys",
    "backup": "copy the SQLite store while the service runs",
    "healthcheck": "check whether the service on this host is alive, or ready",
    "completion": "print the script that completes commands in a shell",
    HELP: "print this help; `help COMMAND` describes a command",
}
"""What each command does, in the order of the help."""
