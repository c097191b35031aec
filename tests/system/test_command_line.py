"""`python pdapt.py` for a newcomer: messages for missing packages, unknown commands and flags."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import guidsvc
from guidsvc.cli.commands import SUMMARIES
from guidsvc.config import Settings
from tests.support.backing_servers import ROOT, START_SECONDS, Server, pdapt

FIRST_WORDS = [[], ["--help"], ["--port", "0"], ["keys", "list"], ["backup", "x"], ["healthcheck"], ["doctor"]]


@pytest.mark.parametrize("arguments", FIRST_WORDS, ids=" ".join)
def test_python_without_packages_says_how_to_install_them(tmp_path: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-S", "-E", str(ROOT / "pdapt.py"), *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=START_SECONDS, check=False)

    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"pdapt\.py: the package \w+ is not installed .*\n", result.stderr), result.stderr
    assert "make install" in result.stderr
    assert "pip install -r requirements.txt" in result.stderr


@pytest.mark.parametrize(
    ("name", "hint"), [("server", "; did you mean serve?"), ("key", "; did you mean keys?"), ("frobnicate", "")]
)
def test_unknown_command_gets_the_commands_and_a_suggestion(tmp_path: Path, name: str, hint: str) -> None:
    rejected = pdapt(tmp_path, name)

    assert (rejected.returncode, rejected.stdout) == (2, "")
    assert rejected.stderr == f"pdapt.py: unknown command {name!r}; the commands are {', '.join(SUMMARIES)}{hint}\n"


def test_unknown_command_is_reported_in_json_with_the_json_log(tmp_path: Path) -> None:
    rejected = pdapt(tmp_path, "mongodb://u:CANARY@h/x", GUIDSVC_LOG_FORMAT="json")

    assert (rejected.returncode, rejected.stdout) == (2, "")
    assert json.loads(rejected.stderr)["error"].startswith("unknown command 'mongodb://u:***@h/x'; the commands are ")


def test_tracing_without_its_packages_says_how_to_install_them(tmp_path: Path) -> None:
    code = "import sys; sys.modules['opentelemetry'] = None; from guidsvc.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--port", "0", "--tracing", "otlp"]
    result = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, check=False
    )

    assert (result.returncode, result.stdout) == (2, "")
    install = re.escape(f"in the checkout of guidsvc, run: {sys.executable} -m pip install '.[otel]'")
    missing = rf"the package opentelemetry[\w.]* is not installed; {install}"
    assert re.fullmatch(rf"\w+: --tracing: {missing}\n", result.stderr)


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
def test_unsupported_protocol_of_traces_is_rejected(tmp_path: Path, name: str) -> None:
    rejected = pdapt(tmp_path, "--port", "0", "--tracing", "otlp", **{name: "grpc"})

    assert (rejected.returncode, rejected.stdout) == (2, "")
    assert f"{name} is 'grpc', which is not supported; set it to http/protobuf" in rejected.stderr


@pytest.mark.parametrize("arguments", [["keys", "list"], ["backup", "x"]], ids=" ".join)
def test_secret_in_an_unknown_flag_of_a_command_is_hidden(tmp_path: Path, arguments: list[str]) -> None:
    rejected = pdapt(tmp_path, *arguments, "--store-ulr=mongodb://u:CANARY@h/x\x1b[31m")

    assert rejected.returncode == 2
    assert "--store-ulr=mongodb://u:***@h/x\\x1b[31m; --store-ulr: did you mean --store-url?" in rejected.stderr


def test_used_port_is_reported_with_the_words_of_make_run(tmp_path: Path, own_redis: Server) -> None:
    rejected = pdapt(tmp_path, GUIDSVC_PORT=str(own_redis.port), MAKELEVEL="1")

    assert rejected.stderr == (
        f"pdapt.py: --host, GUIDSVC_PORT: cannot listen on 127.0.0.1:{own_redis.port}: Address already in use; stop "
        f"what listens there (ss -ltnp 'sport = :{own_redis.port}' shows it), "
        'or use GUIDSVC_PORT=0 for any free port (make run ARGS="--port 0")\n'
    )


def test_misspelt_flag_gets_a_suggestion(tmp_path: Path) -> None:
    rejected = pdapt(tmp_path, "--prot", "1")

    assert (rejected.returncode, rejected.stdout) == (2, "")
    assert rejected.stderr == "pdapt.py: unrecognized arguments: --prot 1; did you mean --port?\n"


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--port", "x", "-h"]], ids=" ".join)
def test_help_is_printed_despite_other_faults(tmp_path: Path, arguments: list[str]) -> None:
    printed = pdapt(tmp_path, *arguments, GUIDSVC_NONSENSE="1")

    assert (printed.returncode, printed.stderr) == (0, "")
    assert all(re.search(rf"^  {command}  ", printed.stdout, re.MULTILINE) for command in SUMMARIES)
    assert "\n\nTLS:\n  --tls-cert FILE " in printed.stdout
    for name, field in Settings.model_fields.items():
        assert re.search(rf"^  --(\[no-\])?{name.replace('_', '-')}\b", printed.stdout, re.MULTILINE), name
        assert not field.description or field.description.split()[-1] in printed.stdout
    assert "default: ]" not in printed.stdout
    assert "default: None" not in printed.stdout


def test_help_is_a_word_as_well(tmp_path: Path) -> None:
    assert pdapt(tmp_path, "help").stdout == pdapt(tmp_path, "--help").stdout
    for arguments in (("keys",), ("keys", "create"), ("serve",)):
        assert pdapt(tmp_path, "help", *arguments).stdout == pdapt(tmp_path, *arguments, "--help").stdout != ""


def test_version_is_printed(tmp_path: Path) -> None:
    printed = pdapt(tmp_path, "--version")

    assert (printed.returncode, printed.stdout, printed.stderr) == (0, f"guidsvc {guidsvc.__version__}\n", "")
