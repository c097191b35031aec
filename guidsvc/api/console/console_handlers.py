"""The page of the console, and its files, from a fixed table."""

from functools import cache
from pathlib import Path

from guidsvc.api.contract.headers import IF_NONE_MATCH_HERE
from guidsvc.api.contract.operation import operation
from guidsvc.api.docs.static_pages import FILE, NOT_MODIFIED, PAGE, POLICY, SCRIPT, STYLE, StaticHandler
from guidsvc.http.errors import NoSuchPath

STATIC = Path(__file__).parent / "static"
_VENDORED = {"preact.js": SCRIPT, "uplot.js": SCRIPT, "uplot.css": STYLE}
FILES = {path.name: SCRIPT for path in sorted(STATIC.glob("*.js"))} | {"console.css": STYLE} | _VENDORED
"""The files of the console, with their media types. No other file is ever read."""
CONSOLE_POLICY = f"{POLICY}; require-trusted-types-for 'script'; trusted-types 'none'"
"""Scripts may also not turn text into markup."""


@cache
def read(name: str) -> bytes:
    """Return the content of a file of the console."""
    return (STATIC / ("vendor" if name in _VENDORED else ".") / name).read_bytes()


class ConsoleHandler(StaticHandler):
    """The page of the console."""

    @operation(
        "getConsole",
        "Show the console",
        PAGE,
        NOT_MODIFIED,
        headers=(IF_NONE_MATCH_HERE,),
    )
    async def get(self) -> None:
        """Return the page where people find and change GUIDs. Its requests need a key, where the service does."""
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")
        await self.respond_static_page(read("console.html"), CONSOLE_POLICY)

    head = get


class ConsoleFileHandler(StaticHandler):
    """The files of the console. They are revalidated at each load, so that all are of one version."""

    in_path = {"file": {"type": "string", "description": "A name.", "examples": ["console.css"]}}

    @operation(
        "getConsoleFile",
        "Read a file of the console",
        FILE,
        NOT_MODIFIED,
        headers=(IF_NONE_MATCH_HERE,),
        problems=(NoSuchPath,),
    )
    async def get(self, name: str) -> None:
        """Return a file of the page."""
        if name not in FILES:
            raise NoSuchPath("The console has no such file. GET /console shows its page.")
        await self.respond_static(read(name), FILES[name])

    head = get
