"""Settings: their sources, which source wins, and which faults stop the start."""

from pathlib import Path

import pytest

from guidsvc.config import PREFIX, Settings, Size, load
from guidsvc.errors import InvalidSettings, StartError, UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults_need_no_other_server() -> None:
    settings = load([])

    assert (settings.host, settings.port) == ("127.0.0.1", 8888)
    assert (settings.store_url, settings.cache_url) == ("sqlite:///guidsvc.db", "memory://")
    assert (settings.lifetime, settings.retention) == (30 * 86_400, 7 * 86_400)


def test_flag_overrides_environment_which_overrides_dotenv(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("GUIDSVC_PORT=1\nGUIDSVC_LIFETIME=1\nGUIDSVC_RETENTION=1\nCOMPOSE_PROJECT_NAME=x\n")
    monkeypatch.setenv("GUIDSVC_PORT", "2")
    monkeypatch.setenv("GUIDSVC_LIFETIME", "2")

    settings = load(["--port", "3"])
    assert (settings.port, settings.lifetime, settings.retention) == (3, 2, 1)


def test_flags_are_forgotten_before_the_next_load() -> None:
    assert load(["--port", "3", "--no-console"]).port == 3

    with pytest.raises(UsageError):
        load(["--nonsense"])
    settings = load(["--grace", "1"])
    assert (settings.grace, settings.port, settings.console) == (1.0, 8888, True)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_a_flag_and_a_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "access": "keys",
        "events": "changes",
        "events_size": "2GiB",
        "access_log": "false",
        "console": "false",
        "public_metrics": "true",
        "jwt_shared_owners": "true",
        "jwt_require_at_jwt": "true",
        "require_preconditions": "true",
        "cache_status": "true",
        "server_timing": "true",
        "tracing": "otlp",
        "guid_version": "7",
        "server": "tornado",
        "max_unsent_bytes": "67108864",
        "trusted_proxies": "10.0.0.0/8",
        "cors_origins": "https://a.example",
        "log_level": "error",
        "log_format": "json",
        "grace": "7.5",
        "max_head_bytes": "65536",
        "max_incoming_bytes": "1048576",
        "cache_size": "1048576",
    }
    value = values.get(name, "7")
    monkeypatch.setenv(PREFIX + name.upper(), value)
    by_variable = getattr(load([]), name)
    monkeypatch.delenv(PREFIX + name.upper())
    flag = f"--{name.replace('_', '-')}"
    switches = {"true": [flag], "false": [f"--no-{flag[2:]}"]}
    by_flag = getattr(load(switches.get(value, [flag, value])), name)

    assert by_variable == by_flag
    assert by_flag != Settings.model_fields[name].default


def test_empty_value_is_not_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(["--store-url="]).store_url == "", "an empty URL is rejected later, by the store"
    monkeypatch.setenv("GUIDSVC_STORE_URL", "")
    assert load([]).store_url == ""
    monkeypatch.setenv("GUIDSVC_PORT", "")
    with pytest.raises(StartError, match="port: "):
        load([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "1"], "--prot"),
        (["--port"], "--port"),
        (["--port", "x"], "port: must be a whole number from 0 to 65535, not 'x'"),
        (["--port", "65536"], "port: "),
        (["--port", "-1"], "port: "),
        (["--lifetime", "0"], "lifetime: "),
        (["--cache-size", "-1"], "cache_size: "),
        (["--cache-size", "10"], r"cache_size: must be 0 \(no cache\) or at least 1MiB, not '10'"),
        (["--cache-size", "1048575"], r"cache_size: must be 0 \(no cache\) or at least 1MiB"),
        (["--cache-size", "many"], "cache_size: .*'many'"),
        (["--cache-size", "3 parsecs"], "cache_size: .*'3 parsecs'"),
        (["--guid-version", "5"], "guid_version: must be 4 or 7, not '5'"),
        (["--access", "key"], "access: must be keys or off, not 'key'"),
        (["--max-connections", "0"], "max_connections: must be a whole number from 1 to 1000000000000000, not '0'"),
        (["--head-timeout", "0"], "head_timeout: must be a number of seconds above 0, and at most 3600, not '0'"),
        (["--grace", "-1"], "grace: must be a number of seconds from 0 to 3600, not '-1'"),
        (["extra"], "extra"),
        (["--port="], "port: "),
        (["--host="], "host: must not be empty$"),
        (["--access-log=false"], "^--access-log takes no value: use --access-log or --no-access-log$"),
    ],
)
def test_unknown_or_invalid_flag_stops_the_start_with_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(StartError, match=message) as error:
        load(arguments)
    assert "\n" not in str(error.value)


def test_all_faults_are_listed_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDSVC_RETENTION", "-1")
    monkeypatch.setenv("GUIDSVC_NONSENSE", "1")
    monkeypatch.setenv("GUIDSVC_QUOTA_FILE", "missing")
    (folder / ".env").write_text("GUIDSVC_ACCESS_LOG=perhaps\nGUIDSVC_PROT=1\nGUIDSVC_HOST=::1\n")

    with pytest.raises(UsageError) as error:
        load(["--lifetime", "0", "--prt", "9", "--workers", "3"])

    assert error.value.faults == (
        "unrecognized arguments: --prt 9; did you mean --port?",
        "unknown setting GUIDSVC_NONSENSE in the environment; --help lists the settings",
        f"unknown setting GUIDSVC_PROT in {folder}/.env, line 2; did you mean GUIDSVC_PORT?",
        "GUIDSVC_QUOTA_FILE: cannot read missing: No such file or directory",
        "lifetime: must be a whole number of seconds from 1 to 3162240000, not '0'",
        "retention: must be a whole number of seconds from 0 to 3162240000, not '-1'",
        "access_log: must be on or off, not 'perhaps'",
    )
    assert str(error.value) == "\n".join(error.value.faults)
    assert error.value.names == {"lifetime", "retention", "access_log", "quota"}
    valid = error.value.settings
    assert valid is not None
    assert (valid.host, valid.workers, valid.lifetime) == ("::1", 3, Settings.model_fields["lifetime"].default)


def test_broken_dotenv_line_is_listed_beside_other_faults(folder: Path) -> None:
    (folder / ".env").write_text("GUIDSVC_HOST=::1\nnonsense here\n")

    with pytest.raises(InvalidSettings) as error:
        load(["--port", "x"])

    assert [fault[:13] for fault in error.value.faults] == [".env, line 2:", "port: must be"]
    assert error.value.settings is None, "the rest of the file is not read"


def test_every_fault_of_dotenv_is_listed_with_its_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDSVC_HOST", "::1")
    lines = [
        *("# other programs may have lines without a value, and lines twice", "OTHER", "A=1", "A=2", ""),
        *("GUIDSVC_QUOTA", "export GUIDSVC_ACCESS_FILE", "GUIDSVC_PORT=1", "guidsvc_port=2", "GUIDSVC_LIFETIME: 3"),
        *("GUIDSVC_PROT", "GUIDSVC_WORKERS=many", "GUIDSVC_HOSTS='a"),
    ]
    (folder / ".env").write_text("\n".join(lines))

    with pytest.raises(InvalidSettings) as error:
        load([])

    assert error.value.faults == (
        ".env, line 6: GUIDSVC_QUOTA has no value; write GUIDSVC_QUOTA=value, or remove the line",
        ".env, line 7: GUIDSVC_ACCESS_FILE has no value; write GUIDSVC_ACCESS_FILE=value, or remove the line",
        ".env, line 9: guidsvc_port is also set in line 8; remove one of the two lines",
        ".env, line 10: not an assignment; write GUIDSVC_LIFETIME=value",
        ".env, line 13: GUIDSVC_HOSTS has a value without a closing '; add it",
        f"unknown setting GUIDSVC_PROT in {folder}/.env, line 11; did you mean GUIDSVC_PORT?",
        "workers: must be a whole number from 1 to 1000, not 'many'",
    )
    assert error.value.names == {"quota", "access", "port", "lifetime", "hosts", "workers"}
    assert error.value.settings is not None, "so that the other settings are checked, too"


def test_unreadable_dotenv_is_listed_beside_other_faults(folder: Path) -> None:
    (folder / ".env").mkdir()

    with pytest.raises(UsageError) as error:
        load(["--prt", "1", "--quota", "-1"])

    assert [fault.partition(":")[0] for fault in error.value.faults] == ["unrecognized arguments", ".env", "quota"]


def test_values_in_dotenv_may_refer_to_variables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB", "db.example")
    (folder / ".env").write_text("NAME=guidsvc\nGUIDSVC_STORE_URL=mongodb://${DB}/${NAME}\n")

    assert load([]).store_url == "mongodb://db.example/guidsvc"


SERVICE_LINKS = {
    "GUIDSVC_PORT": "tcp://10.0.0.1:8888",
    "GUIDSVC_SERVICE_HOST": "10.0.0.1",
    "GUIDSVC_SERVICE_PORT": "8888",
    "GUIDSVC_SERVICE_PORT_HTTP": "8888",
    "GUIDSVC_PORT_8888_TCP": "tcp://10.0.0.1:8888",
    "GUIDSVC_PORT_8888_TCP_PROTO": "tcp",
    "GUIDSVC_PORT_8888_TCP_PORT": "8888",
    "GUIDSVC_PORT_8888_TCP_ADDR": "10.0.0.1",
    "GUIDSVC_CACHE_SERVICE_HOST": "10.0.0.2",
    "GUIDSVC_CACHE_PORT": "tcp://[fd00::2]:6379",
    "GUIDSVC_CACHE_PORT_6379_TCP_ADDR": "fd00::2",
}
"""Variables that Kubernetes sets for Services called guidsvc and guidsvc-cache."""


@pytest.mark.parametrize("in_file", [True, False])
def test_service_links_of_kubernetes_are_ignored(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, in_file: bool
) -> None:
    if in_file:
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in SERVICE_LINKS.items()))
    for name, value in SERVICE_LINKS.items():
        if not in_file:
            monkeypatch.setenv(name, value)

    assert load([]) == Settings.model_construct()
    assert load(["--port", "9"]).port == 9


def test_service_link_does_not_hide_the_port_in_dotenv(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDSVC_PORT", "tcp://10.0.0.1:8888")
    (folder / ".env").write_text("GUIDSVC_PORT=9000\n")

    assert load([]).port == 9000


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GUIDSVC_PORT", "http://10.0.0.1:8888"),
        ("GUIDSVC_CACHE_PORT", "6379"),
        ("GUIDSVC_PORT_TCP", "tcp://10.0.0.1:8888"),
        ("GUIDSVC_SERVICE", "10.0.0.1"),
        ("GUIDSVC_TOKEN", "x"),
    ],
)
def test_similar_variables_are_still_rejected(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(InvalidSettings):
        load([])


@pytest.mark.parametrize(
    "variable", ["GUIDSVC_URL", "GUIDSVC_KEY", "GUIDSVC_KEY_FILE", "GUIDSVC_API_KEY", "GUIDSVC_PROFILE"]
)
def test_variables_of_clients_are_ignored(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "gs_x")

    assert load([]) == Settings.model_construct()


TWO_UNKNOWN = (
    "unrecognized arguments: --prot 1 --wrokers=2 --nonsense; --prot: did you mean --port?; "
    "--wrokers: did you mean --workers?\nquota: must be a whole number from 0 to 1000000000000000, not '-1'"
)


NO_VALUE = "--access-log takes no value: use --access-log or --no-access-log"
ALL_FAULTS = (
    f"{NO_VALUE}\n"
    "--server-timing takes no value: use --server-timing or --no-server-timing\n"
    "unrecognized arguments: --nonsense; --help lists the flags\n"
    "port: must be a whole number from 0 to 65535, not 'x'"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot 1; did you mean --port?"),
        (
            ["--store-ulr=x://u:p@h"],
            "unrecognized arguments: --store-ulr=x://u:***@h; did you mean --store-url?",
        ),
        (["--cache", "redis"], "unrecognized arguments: --cache redis; did you mean --cache-url?"),
        (["--redis"], "unrecognized arguments: --redis; did you mean --cache-url?"),
        *(
            ([word], f"unrecognized arguments: {word}; did you mean --store-url?")
            for word in ("--store", "--mongo", "--database", "--db")
        ),
        (["--ttl=4"], "unrecognized arguments: --ttl=4; did you mean --lifetime?"),
        (["--default-ttl", "4"], "unrecognized arguments: --default-ttl 4; did you mean --lifetime?"),
        (["-p", "8971"], "unrecognized arguments: -p 8971; did you mean --port?"),
        (["-port", "8971"], "unrecognized arguments: -port 8971; did you mean --port?"),
        (["-V"], "unrecognized arguments: -V; did you mean --version?"),
        (
            ["--prot", "1", "--wrokers=2", "--nonsense", "--quota", "-1"],
            TWO_UNKNOWN,
        ),
        (["--nonsense"], "unrecognized arguments: --nonsense; --help lists the flags"),
        (["--port"], "argument --port: expected one argument; --help lists the flags"),
        (
            ["--warn-before", "-1h"],
            "--warn-before lacks its value: -1h is read as a flag; if it is the value, write --warn-before=-1h",
        ),
        (["--no-events"], "unrecognized arguments: --no-events; did you mean --events off?"),
        (["--no-cache"], "unrecognized arguments: --no-cache; did you mean --cache-size 0?"),
        (["--access-log=no", "--port", "x", "--nonsense", "--server-timing=1"], ALL_FAULTS),
        (["--no-access-log=x", "--prot"], f"{NO_VALUE}\nunrecognized arguments: --prot; did you mean --port?"),
    ],
)
def test_wrong_command_line_is_a_usage_error_with_a_suggestion(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        load(arguments)

    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 * 2**20),
        ("1024KiB", 2**20),
        ("1GiB", 2**30),
        ("2000000", 2_000_000),
        ("0", 0),
        ("10MB", 10_000_000),
    ],
)
def test_size_is_in_bytes_or_has_a_unit(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(["--cache-size", text]).cache_size == size
    monkeypatch.setenv("GUIDSVC_CACHE_SIZE", text)
    assert load([]).cache_size == size


@pytest.mark.parametrize(
    ("setting", "text", "seconds"),
    [
        ("lifetime", "90d", 7_776_000),
        ("lifetime", "3600", 3600),
        ("retention", "0", 0),
        ("retention", "8w", 4_838_400),
        ("idle_timeout", "2m", 120),
        ("queue_timeout", "500ms", 0.5),
        ("request_timeout", "2.5", 2.5),
        ("grace", "30s", 30),
    ],
)
def test_duration_is_in_seconds_or_has_a_unit(
    setting: str, text: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert getattr(load([f"--{setting.replace('_', '-')}", text]), setting) == seconds
    monkeypatch.setenv(PREFIX + setting.upper(), text)
    assert getattr(load([]), setting) == seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("soon", r"must be a number of seconds or a duration with a unit \(90s, 30m, 12h, 90d, 8w\), not 'soon'"),
        ("1500ms", "must be a whole number of seconds from 1 to 3162240000$"),
        ("36600d", ""),
        ("36601d", r"must be at most 100 years \(36600d\), not '36601d'"),
        ("0d", "must be a whole number of seconds from 1"),
        ("nan", "must be a number of seconds"),
    ],
)
def test_invalid_duration_is_rejected_with_the_forms(text: str, message: str) -> None:
    if message:
        with pytest.raises(StartError, match=f"lifetime: {message}"):
            load(["--lifetime", text])
    else:
        assert load(["--lifetime", text]).lifetime == 36_600 * 86_400


def test_cache_has_256_mib_by_default() -> None:
    assert load([]).cache_size == 256 * 2**20


def test_misspelt_variable_stops_the_start_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDSVC_STORE_ULR", "mongodb://db/guidsvc")

    with pytest.raises(StartError, match=r"GUIDSVC_STORE_ULR .* did you mean GUIDSVC_STORE_URL"):
        load([])


def test_variable_of_another_name_gets_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDSVC_DATABASE_URL", "mongodb://db/guidsvc")

    with pytest.raises(StartError, match=r"GUIDSVC_DATABASE_URL .* did you mean GUIDSVC_STORE_URL"):
        load([])


def test_misspelt_name_in_the_file_stops_the_start(folder: Path) -> None:
    (folder / ".env").write_text("GUIDSVC_PROT=1\n")

    with pytest.raises(StartError, match=r"GUIDSVC_PROT .* did you mean GUIDSVC_PORT"):
        load([])


# From files


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_variable_can_come_from_a_file(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = Settings.model_fields[name].default
    value = {"access": "keys"}.get(name, "7" if default is None else str(default))
    (folder / "value").write_text(f"{value}\n")
    monkeypatch.setenv(f"{PREFIX}{name.upper()}_FILE", str(folder / "value"))

    assert getattr(load([]), name) == (value if default is None else default)


def test_file_counts_as_its_variable_would(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "secret").write_bytes(b"mongodb://u:p@db/guidsvc\r\n")
    (folder / "port").write_text("2")
    monkeypatch.setenv("GUIDSVC_STORE_URL_FILE", "secret")
    (folder / ".env").write_text("GUIDSVC_PORT_FILE=port\n")

    assert (load([]).store_url, load([]).port) == ("mongodb://u:p@db/guidsvc", 2)
    assert load(["--port", "3", "--store-url", "sqlite:///x"]).store_url == "sqlite:///x", "a flag overrides the file"


@pytest.mark.parametrize("in_file", [True, False])
def test_variable_and_its_file_exclude_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, in_file: bool
) -> None:
    (folder / "secret").write_text("CANARY")
    monkeypatch.setenv("GUIDSVC_CACHE_URL_FILE", "secret")
    if in_file:
        (folder / ".env").write_text("GUIDSVC_CACHE_URL=memory://\n")
    else:
        monkeypatch.setenv("guidsvc_cache_url", "memory://")

    with pytest.raises(StartError, match=r"^GUIDSVC_CACHE_URL, GUIDSVC_CACHE_URL_FILE: both are set") as error:
        load([])
    source = f"in {folder}/.env, line 1" if in_file else "in the environment"
    assert str(error.value).endswith(f", the first {source}, the second in the environment; remove one of them")


def test_unreadable_secret_file_stops_the_start_without_leaks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bytes").write_bytes(b"CANARY\xff")
    (folder / "text").write_text("CANARY")
    for path in ("missing", ".", "bytes", "", "a\0b"):
        (folder / ".env").write_text(f'GUIDSVC_STORE_URL_FILE="{path}"\n')
        with pytest.raises(StartError, match=r"^GUIDSVC_STORE_URL_FILE: ") as error:
            load([])
        assert "\n" not in str(error.value)
        assert "CANARY" not in str(error.value)
        assert "ff" not in str(error.value)
    (folder / ".env").write_text("GUIDSVC_PORT_FILE=text\n")
    with pytest.raises(StartError, match=r"^port: ") as error:
        load([])
    assert "CANARY" not in str(error.value)


@pytest.mark.parametrize("in_file", [True, False])
def test_file_without_a_path_is_named_with_the_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, in_file: bool
) -> None:
    if in_file:
        (folder / ".env").write_text("GUIDSVC_PORT_FILE=\n")
    else:
        monkeypatch.setenv("GUIDSVC_PORT_FILE", "")
    source = f"; it is set in {folder}/.env, line 1" if in_file else ""

    with pytest.raises(InvalidSettings) as error:
        load([])
    assert str(error.value) == (
        f"GUIDSVC_PORT_FILE: must name the file with the value; write its path, or remove the variable{source}"
    )


def test_secret_in_place_of_its_file_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDSVC_STORE_URL_FILE", "mongodb://u:CANARY@db/guidsvc")

    with pytest.raises(InvalidSettings, match=r"cannot read mongodb://u:\*\*\*@db/guidsvc: No such file") as error:
        load([])
    assert "CANARY" not in str(error.value)


def test_misspelt_file_variable_gets_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDSVC_STORE_ULR_FILE", "secret")

    with pytest.raises(StartError, match="did you mean GUIDSVC_STORE_URL_FILE"):
        load([])


@pytest.mark.parametrize("text", [b"GUIDSVC_PORT=1\nnonsense here\n", b"GUIDSVC_HOST=\xff\n", b"=\n"])
def test_unreadable_dotenv_stops_the_start_with_one_line(folder: Path, text: bytes) -> None:
    (folder / ".env").write_bytes(text)

    with pytest.raises(StartError, match=r"^\.env") as error:
        load([])
    assert "\n" not in str(error.value)


def test_dotenv_in_another_encoding_is_reported_as_such(folder: Path) -> None:
    (folder / ".env").write_bytes(b"GUIDSVC_HOST=\xff\n")

    with pytest.raises(StartError, match=r"^\.env is not UTF-8; save it in UTF-8$"):
        load([])


NUMBERS = [name for name, field in Settings.model_fields.items() if type(field.default) in {int, float}]
SIZES = [name for name, field in Settings.model_fields.items() if isinstance(field.default, Size)]


@pytest.mark.parametrize("name", [*NUMBERS, *SIZES])
def test_number_has_an_upper_bound(name: str) -> None:
    """A store or a cache would fail at a number of more than 64 bits."""
    with pytest.raises(StartError, match=f"^{name}: must be a .*, not '{10**30}'"):
        load([f"--{name.replace('_', '-')}", str(10**30)])


@pytest.mark.parametrize("name", NUMBERS)
def test_fault_of_a_number_says_what_is_accepted(name: str) -> None:
    with pytest.raises(StartError) as error:
        load([f"--{name.replace('_', '-')}=-1"])

    assert str(error.value).startswith(f"{name}: must be ")


def test_variables_of_the_tests_are_not_those_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDSVC_TEST_MONGO_URL", "mongodb://db")

    assert load([]).store_url == "sqlite:///guidsvc.db"


@pytest.mark.parametrize("name", ["unix_socket", "tls_cert", "audit_log"])
def test_word_none_is_a_value_like_any_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert getattr(load([f"--{name.replace('_', '-')}", "None"]), name) == "None"
    monkeypatch.setenv(f"{PREFIX}{name.upper()}", "None")
    assert getattr(load([]), name) == "None"
