"""The table of the commands. A command is imported only when it is used, and Click with it: a service needs neither."""

SERVE, HELP = "serve", "help"
"""Commands that are not in the table: the first is the default, the second prints the help."""
COMPLETION_VARIABLE = "_GUIDSVC_COMPLETE"
"""The variable by which a shell requests completions."""
REMOTE = "guidsvc.cli.remote."
"""The package of the commands over HTTP, which need the extra `cli`."""
EXTRA = frozenset({"guidsvc_client", "httpx2", "tenacity", "platformdirs"})
"""The packages of that extra, which `keys --url` needs too."""

COMMANDS: dict[str, str] = {
    "config": "guidsvc.cli.local.config:config",
    "doctor": "guidsvc.cli.local.doctor:doctor",
    "demo": "guidsvc.cli.local.demo:demo",
    "whoami": "guidsvc.cli.remote.commands.service:whoami",
    "status": "guidsvc.cli.remote.commands.service:status",
    "put": "guidsvc.cli.remote.commands.records:put",
    "get": "guidsvc.cli.remote.commands.records:get",
    "patch": "guidsvc.cli.remote.commands.records:patch",
    "rm": "guidsvc.cli.remote.commands.life:rm",
    "renew": "guidsvc.cli.remote.commands.life:renew",
    "revoke": "guidsvc.cli.remote.commands.life:revoke",
    "edit": "guidsvc.cli.remote.commands.editing:edit",
    "ls": "guidsvc.cli.remote.commands.listing:ls",
    "watch": "guidsvc.cli.remote.commands.watching:watch",
    "export": "guidsvc.cli.remote.transfer.exporting:export_records",
    "import": "guidsvc.cli.remote.transfer.importing:import_records",
    "check": "guidsvc.cli.remote.commands.checking:check",
    "keys": "guidsvc.cli.keys.command:keys",
    "backup": "guidsvc.cli.local.backup:backup",
    "healthcheck": "guidsvc.cli.local.healthcheck:healthcheck",
    "completion": "guidsvc.cli.local.completion:completion",
}
"""Commands by name: the module and, after a colon, the attribute, which is a `click.Command`."""

SUMMARIES: dict[str, str] = {
    SERVE: "start the service; the default",
    "config": "print the settings in force and the source of each",
    "doctor": "find faults of the installation, and name the remedies",
    "demo": "create sample GUIDs of all kinds, or remove them",
    "status": "print the state of a service, or wait until it is ready",
    "whoami": "print your key, its scopes and its limits",
    "put": "create a record, or change members of one",
    "get": "print a record",
    "patch": "merge members into a record that exists",
    "edit": "edit a record in an editor",
    "renew": "move the expiry of a record later",
    "revoke": "end the life of a record now",
    "rm": "delete a record",
    "ls": "list records",
    "watch": "print a line for each event of GUIDs",
    "export": "write records to a file, as lines of JSON",
    "import": "put the records of a file",
    "check": "measure how fast a service answers",
    "keys": "manage API keys, in the store or over HTTP",
    "backup": "copy the SQLite store while the service runs",
    "healthcheck": "check that the service on this host is alive, or ready",
    "completion": "print the script that completes commands in a shell",
    HELP: "print this help; `help COMMAND` describes a command",
}
"""A summary of each command, in the order of the help."""
