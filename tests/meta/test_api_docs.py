"""docs/api.md matches the service: every example in it is run."""

import re
from pathlib import Path

from tests.support import curl_examples as curl
from tests.support.backing_servers import ROOT, pdapt, service

TEXT = (ROOT / "docs" / "api.md").read_text()
EXAMPLES = re.findall(r"```sh\n(curl .*?)\n```\n```http\n(.*?)\n```|```sh\n(\w+=\$\(curl .*?\))\n```", TEXT, re.DOTALL)
"""A request and its response, or, as the third, a variable that is set to a part of a response."""


def run(examples: list[tuple[str, str, str]], port: int, folder: Path, variables: dict[str, str]) -> None:
    """Run examples against the service on this port, and compare the responses."""
    for line, expected, assignment in examples:
        if assignment:
            variables |= curl.run_assignment(assignment, port, folder, variables)
            continue
        printed = curl.run(line, port, folder, variables)
        head, _, text = expected.partition("\n\n")
        status, *headers = head.splitlines()
        assert str(printed.status) == status, (line, printed.text)
        for name, value in (header.split(": ", 1) for header in headers):
            assert re.fullmatch(curl.pattern(value), printed.headers[name] or ""), (line, name, printed.headers[name])
        assert re.fullmatch(curl.pattern(text), printed.text.rstrip("\n"), re.DOTALL), (line, printed.text)


def test_every_example_answers_as_documented(tmp_path: Path) -> None:
    variables = curl.assignments(TEXT.partition("```sh\n")[2].partition("```")[0])
    about_keys = [example for example in EXAMPLES if "$KEY" in example[0] + example[2]]
    assert len(EXAMPLES) == TEXT.count("curl -") + TEXT.count("curl $") + TEXT.count('curl "$') - 1
    assert len(EXAMPLES) + 2 == TEXT.count("```sh\n"), "except the first variables and the first key"
    with service(tmp_path) as running:
        run([example for example in EXAMPLES if example not in about_keys], running.port, tmp_path, variables)
    match = re.search(r"^KEY=\$\(\.venv/bin/python pdapt\.py (.*)\)$", TEXT, re.MULTILINE)
    assert match is not None
    variables["KEY"] = pdapt(tmp_path, *match[1].split()).stdout.strip()
    with service(tmp_path, "--access", "keys") as running:
        run(about_keys, running.port, tmp_path, variables)


def test_every_member_and_parameter_is_documented() -> None:
    from guidsvc.api.parsing.key_schemas import KeyCreation, KeysQuery, Rotation
    from guidsvc.domain.commands import BatchOperation, BatchQuery, ListQuery, PutCommand

    for model in (PutCommand, BatchOperation, ListQuery, BatchQuery, KeyCreation, KeysQuery, Rotation):
        for name in model.model_fields:
            assert f"`{name}" in TEXT or f"{name}=" in TEXT, name
