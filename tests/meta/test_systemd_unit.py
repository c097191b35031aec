"""The unit of deploy/systemd matches the service, and systemd-analyze accepts it if that is installed.

The tests run no systemd. tests/system/test_service_manager.py tests its protocol with the service.
"""

import re
import shutil
import sys
from pathlib import Path

from guidsvc.cli.commands import SERVE
from guidsvc.config import PREFIX, Settings
from guidsvc.process import file_descriptors
from guidsvc.process.worker_channel import MARGIN_SECONDS
from tests.support.backing_servers import ROOT
from tests.support.optional_program import find, run

FOLDER = ROOT / "deploy" / "systemd"
UNIT, DROP_IN = FOLDER / "guidsvc.service", FOLDER / "mongodb.conf"
DOCS = (ROOT / "docs" / "deployment.md").read_text()


def values(path: Path, name: str) -> list[str]:
    """Return all values of a setting of a unit."""
    return re.findall(rf"^{name}=(.*)$", path.read_text(), re.MULTILINE)


def installed(folder: Path) -> Path:
    """Copy the unit and its drop-in to a folder, with a program that exists on this host; return the unit."""
    unit = folder / UNIT.name
    (folder / f"{UNIT.name}.d").mkdir()
    shutil.copy(DROP_IN, folder / f"{UNIT.name}.d")
    unit.write_text(UNIT.read_text().replace("/opt/guidsvc/bin/guidsvc", sys.executable))
    return unit


def test_unit_and_drop_in_pass_systemd_analyze(tmp_path: Path) -> None:
    analyze = find("systemd-analyze")
    if analyze is None:  # the tests below cover the files themselves
        return
    unit = installed(tmp_path)
    process = run(analyze, "verify", "--man=no", str(unit))
    assert (process.returncode, process.stdout + process.stderr) == (0, "")

    broken = tmp_path / f"{UNIT.name}.d" / DROP_IN.name
    broken.write_text(f"{broken.read_text()}WatchdogSeconds=1\n")
    assert "WatchdogSeconds" in run(analyze, "verify", "--man=no", str(unit)).stderr, "the drop-in was not read"


def test_unit_is_exposed_no_more_than_documented() -> None:
    (documented,) = re.findall(r"systemd-analyze security --offline=true .*?: (\d\.\d) OK", DOCS, re.DOTALL)
    analyze = find("systemd-analyze")
    if analyze is None:
        return
    threshold = round(float(documented) * 10)
    for threshold_tenths, code in ((threshold, 0), (threshold - 1, 1)):
        process = run(analyze, "security", "--offline=true", f"--threshold={threshold_tenths}", "--no-pager", str(UNIT))
        assert process.returncode == code, process.stdout[-200:]


def test_unit_starts_the_service_and_waits_for_its_report() -> None:
    (command,) = values(UNIT, "ExecStart")
    program, *arguments = command.split()

    assert Path(program).name == "guidsvc"
    assert arguments[0] == SERVE
    assert values(UNIT, "Type") == ["notify"]
    assert values(UNIT, "WatchdogSec") == ["30"]
    assert values(UNIT, "WorkingDirectory") == [f"%S/{values(UNIT, 'StateDirectory')[0]}"]


def test_unit_lets_the_service_end_by_itself() -> None:
    (seconds,) = values(UNIT, "TimeoutStopSec")

    assert float(seconds) > Settings.model_fields["grace"].default + MARGIN_SECONDS


def test_unit_allows_the_descriptors_that_connections_need() -> None:
    (limit,) = values(UNIT, "LimitNOFILE")

    assert int(limit) >= Settings.model_fields["max_connections"].default + file_descriptors.RESERVED


def test_variables_of_unit_and_drop_in_are_settings() -> None:
    variables = set(re.findall(rf"\b{PREFIX}[A-Z_]+", UNIT.read_text() + DROP_IN.read_text()))

    assert variables
    assert {name.removesuffix("_FILE") for name in variables} <= {
        PREFIX + name.upper() for name in Settings.model_fields
    }


def test_only_a_service_with_workers_is_reloaded() -> None:
    """SIGHUP ends a single process without TLS."""
    assert values(UNIT, "ExecReload") == []
    assert values(DROP_IN, "ExecReload") == ["kill -HUP $MAINPID"]
    assert f"{PREFIX}WORKERS=2" in values(DROP_IN, "Environment")
