"""README, docs and changelog match the code."""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

import guidsvc
from guidsvc.api.app import make_routes
from guidsvc.api.contract import problems
from guidsvc.cli.settings_help import GROUPS, default_text, is_switch
from guidsvc.config import PREFIX, Settings, flag
from tests.support import curl_examples as curl
from tests.support.backing_servers import ROOT, service

README = (ROOT / "README.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
SUMMARY = (ROOT / "docs" / "summary.md").read_text()
EXAMPLES = re.findall(r"```sh\n(curl .*)\n```\n(?:```json\n(.+)\n```\n)?", README)


def rows(page: str, section: str) -> list[list[str]]:
    """Return the cells of the first table in a section of a page."""
    return table_rows(page.partition(f"## {section}\n")[2].partition("\n## ")[0])


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of the first table in a text, without the marks of code."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def test_examples_answer_as_documented(tmp_path: Path) -> None:
    assert len(EXAMPLES) == README.count("```sh") == 7
    with service(tmp_path) as running:
        for line, expected in EXAMPLES:
            pattern = re.escape(expected).replace("<GUID>", "[0-9A-F]{32}").replace("<EXPIRE>", "[0-9]+")
            pattern = pattern.replace("<TIME>", "[0-9TZ:-]+")
            assert re.fullmatch(
                pattern.replace(re.escape(",...}"), ".*") + "\n?", curl.run(line, running.port, tmp_path).text
            ), line


def test_readme_starts_with_two_make_commands() -> None:
    top = [line.split("#")[0].strip() for line in README.splitlines()[2:4]]

    assert top == ["make run", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert "python pdapt.py" in makefile.partition("\nrun:")[2].partition("\n\n")[0]
    assert "python -m pytest" in makefile.partition("\ntest:")[2].partition("\n\n")[0]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_docs_and_help_have_the_same_settings_in_the_same_groups() -> None:
    sections = re.split(r"^### (.*)\n", CONFIGURATION.partition("\n## Access\n")[0], flags=re.MULTILINE)[1:]
    documented = {title: table_rows(text) for title, text in zip(sections[::2], sections[1::2], strict=True)}

    assert documented.pop("Values from files") == []
    assert documented.pop("Variables of other programs") == []
    assert documented == {title: [documented_setting(name) for name in names] for title, names in GROUPS.items()}
    assert [name for names in GROUPS.values() for name in names] == list(Settings.model_fields)
    assert all(field.default is not PydanticUndefined for field in Settings.model_fields.values())


def documented_setting(name: str) -> list[str]:
    """Return the cells of the row of a setting."""
    field, option = Settings.model_fields[name], flag(name)
    return [
        option.replace("--", "--[no-]", 1) if is_switch(name) else option,
        PREFIX + name.upper(),
        default_text(name),
        field.description or "",
    ]


def test_errors_table_matches_the_code() -> None:
    documented = {row[0]: int(row[1]) for row in rows(SUMMARY, "Errors")}

    assert documented == {kind.code: kind.status for kind in {*problems.TABLE.values(), problems.INTERNAL}}


def test_every_served_path_is_in_the_summary() -> None:
    served = {route.path for route in make_routes()}
    table = SUMMARY.partition("## Requests")[2].partition("\n\n## ")[0]
    documented = set(re.findall(r"`(?:[A-Z]+ )?(/[^`]*)`", table))

    assert documented == served


def test_every_risk_has_existing_tests() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    risks = re.findall(r"^\*\*(API\d+) .*?\*\*\s.*?\sTests:\s(.*?)\.\n\n", text, re.MULTILINE | re.DOTALL)

    assert [risk for risk, _ in risks] == [f"API{number}" for number in range(1, 11)]
    for risk, tests in risks:
        assert_that_tests_exist(tests, risk)


def test_every_bound_has_a_test_and_existing_settings() -> None:
    text = (ROOT / "docs" / "security.md").read_text().partition("## Bounds")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.*?) ?\| (.+) \|$", text, re.MULTILINE)[1:]
    settings = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}

    assert len(rows) == text.count("\n|") - 2 == len({bound for bound, *_ in rows})
    for bound, _, setting, tests in rows:
        assert_that_tests_exist(tests, bound)
        assert set(re.findall(r"`(--[\w-]+)", setting)) <= settings, bound


def test_lines_about_security_fit_a_terminal() -> None:
    lines = (ROOT / "docs" / "security.md").read_text().splitlines()

    assert [line for line in lines if len(line) > 300] == []


@cache
def defined_tests() -> Counter[str]:
    """Return how often each name of a test is defined, alone and behind its file: `test_docs.py::test_...`."""
    counts: Counter[str] = Counter()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE):
            counts.update((name, f"{path.name}::{name}"))
    return counts


def assert_that_tests_exist(text: str, subject: str) -> None:
    """Each name must belong to exactly one test, so that a search finds it."""
    tests = re.findall(r"`((?:test_\w+\.py::)?test_\w+)`", text)
    assert tests, subject
    assert {name: defined_tests()[name] for name in tests} == dict.fromkeys(tests, 1), subject


PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def without_code(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_has_a_target(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(page))
    for link in (link for link in links if not re.match(r"[a-z]+:", link)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_named_file_of_the_repository_exists(page: Path) -> None:
    """A path may begin at the package, as in the tour of `docs/architecture.md`."""
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:conf|cfg|json|lua|md|py|service|toml|ya?ml))`", page.read_text())

    assert [name for name in named if not ((ROOT / name).exists() or (ROOT / "guidsvc" / name).exists())] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_command_uses_the_python_with_the_packages(page: Path) -> None:
    """`make run` installs the packages only into .venv."""
    assert re.findall(r"(?<!\.venv/bin/)python pdapt\.py", page.read_text()) == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "deploy" / "README.md"], ids=lambda page: page.name)
def test_key_is_saved_in_a_file_of_its_owner(page: Path) -> None:
    lines = [line for line in page.read_text().splitlines() if re.search(r"keys (create|rotate) [^`]*> ?\w", line)]

    assert [line for line in lines if "(umask 077; " not in line] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "deploy" / "README.md"], ids=lambda page: page.name)
def test_compose_is_called_as_a_command_of_docker(page: Path) -> None:
    """The old program docker-compose 1 does not know the files."""
    assert re.findall(r"(?<!#with-)docker-compose(?!\.yml)", page.read_text()) == []


def test_changelog_names_the_version_or_unreleased() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()

    assert "## Unreleased" in changelog or f"## {guidsvc.__version__}" in changelog


def test_design_of_the_package_is_described_in_one_place() -> None:
    documented = set(re.findall(r"^    (\w+)/? +\w", guidsvc.__doc__ or "", re.MULTILINE))
    existing = {
        path.stem
        for path in (ROOT / "guidsvc").iterdir()
        if (path.is_dir() or path.suffix == ".py") and not path.name.startswith("__")
    }

    assert documented == existing


def test_start_and_end_of_outages_are_in_the_operations_guide() -> None:
    guide = (ROOT / "docs" / "operations.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "guidsvc").rglob("*.py"))
    outages = re.findall(r'\bOutage\(\s*_log,\s*"(.+?)",\s*"(.+?)"', sources)

    assert len(outages) == len(re.findall(r"\bOutage\(\s*_log", sources))
    assert [text for outage in outages for text in outage if f"`{text}`" not in guide] == []
    assert "`cache disabled, reading and writing the store only`" in guide
