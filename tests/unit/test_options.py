"""Options from flags, environment and config file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.cli.help import WIDTH, help_text
from ha.cli.options import COMMANDS, HelpWanted, UsageError, VersionWanted, parse
from ha.config import NOT_BUILT, OPTIONS, Config, Durability, LogLevel, PgAuth
from ha.core.changeset import Identify
from ha.core.dsn import Dsn

# What the manual's section 9 and the wire notes name, written out once more on purpose.
MANUAL = {
    "name", "port", "token", "memory", "db-params", "create-db-dir", "from-latest-snapshot",
    "snapshot-interval", "disable-ddl-sync", "nats-logs", "nats-port", "nats-store-dir",
    "nats-user", "nats-pass", "nats-config", "leader-addr", "leader-static", "grpc-insecure",
    "mysql-port", "mysql-user", "mysql-pass", "mysql-proxied", "mysql-include", "mysql-exclude",
    "mysql-dump-bin", "mysql-dump-db", "mysql-dump-include", "mysql-proxy-id", "pg-port",
    "pg-user", "pg-pass", "pg-cert", "pg-key", "pg-proxied", "pg-publication", "pg-slot",
    "proxy-local", "proxy-use-schema", "proxy-disable-redirect", "proxy-read-your-writes",
    "debezium-brokers", "debezium-group", "debezium-topics", "debezium-source-dsn",
    "concurrent-queries", "async-replication", "async-replication-store-dir", "replicas",
    "replication-timeout", "replication-stream", "replication-max-age", "replication-url",
    "replication-policy", "row-identify", "extensions", "config", "interceptor", "log-level",
    "remote",
}  # fmt: skip


def configure(
    *arguments: str, env: Mapping[str, str] | None = None, file: Path | None = None
) -> Config:
    extra = [] if file is None else ["--config", str(file)]
    return parse([*arguments, *extra], env or {})


def refusal(*arguments: str, env: Mapping[str, str] | None = None, file: Path | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        configure(*arguments, env=env, file=file)
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return tmp_path / "ha.conf"


# --- the table -----------------------------------------------------------------------


def test_every_option_of_the_manual_is_there() -> None:
    assert {o.flag for o in OPTIONS} >= MANUAL


def test_the_defaults_of_the_manual() -> None:
    config = Config()
    assert config.port == 8080
    assert config.nats_port == 4222
    assert config.pg_port == 0
    assert (config.pg_user, config.pg_pass) == ("ha", "ha")
    assert config.concurrent_queries == 50
    assert config.replication_stream == "ha_replication"
    assert config.replication_timeout == 15
    assert config.replication_max_age == 24 * 3600
    assert config.replicas == 1
    assert config.row_identify is Identify.PK
    assert config.mysql_include == "^db.*"
    assert config.proxy_local == "ha.db"
    assert not config.memory


def test_names_are_unique_and_short_flags_too() -> None:
    flags = [o.flag for o in OPTIONS]
    shorts = [o.short for o in OPTIONS if o.short]
    assert len(set(flags)) == len(flags)
    assert sorted(shorts) == sorted("npmirce")


def test_a_default_reads_back_as_itself() -> None:
    defaults = Config()
    for option in OPTIONS:
        if option.default_text and option.flag != "name":
            assert option.parse(option.default_text) == getattr(defaults, option.attribute)


def test_no_secret_is_shown_by_repr() -> None:
    config = configure(
        "--token", "t0ken-1", "--pg-pass", "pa55-2", "--nats-user", "u", "--nats-pass", "pa55-3",
        "--replication-url", "nats://u:pa55-4@host:4222,nats://host2",
    )  # fmt: skip
    for secret in ("t0ken-1", "pa55-2", "pa55-3", "pa55-4"):
        assert secret not in repr(config)
    assert set(config.secrets()) == {"t0ken-1", "pa55-2", "pa55-3", "pa55-4"}


# --- flags ---------------------------------------------------------------------------


def test_the_quick_start_of_the_manual() -> None:
    config = configure(
        "-n", "node2", "-m", "--port", "8081", "--pg-port", "5433", "--nats-port", "0",
        "--replication-url", "nats://localhost:4222",
    )  # fmt: skip
    assert config == dataclasses.replace(
        Config(),
        name="node2",
        memory=True,
        port=8081,
        pg_port=5433,
        nats_port=0,
        replication_url="nats://localhost:4222",
        databases=config.databases,
    )
    (dsn,) = config.databases
    assert (dsn.database_id, dsn.memory, dsn.source) == ("ha.db", True, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "9000", "--memory"],
        ["--port=9000", "--memory=true"],
        ["-p", "9000", "-m"],
        ["-p9000", "-m=1"],
        ["-p=9000", "-m"],
        ["-mp", "9000"],
        ["-mp9000"],
        ["-p", "1", "-m", "--port", "9000"],
    ],
)
def test_the_ways_to_write_a_flag(arguments: Sequence[str]) -> None:
    config = configure(*arguments)
    assert (config.port, config.memory) == (9000, True)


def test_a_boolean_flag_takes_no_value_after_a_blank() -> None:
    config = configure("-m", "mydatabase.db")
    assert config.memory
    assert [d.source for d in config.databases] == ["mydatabase.db"]
    assert not configure("--memory=false").memory


def test_values_of_every_kind() -> None:
    config = configure(
        "--replication-timeout", "1m30s", "--replication-max-age", "0", "--max-body", "2MiB",
        "--durability", "full", "--log-level", "DEBUG", "--pg-auth", "trust",
        "--row-identify", "full", "--transaction-hold", "300ms", "--replication-policy",
        "by_start_time=2026-01-31 12:00:00", "--nats-store-dir", "/data/nats",
    )  # fmt: skip
    assert config.replication_timeout == 90
    assert config.replication_max_age == 0
    assert config.max_body == 2 * 2**20
    assert config.durability is Durability.FULL
    assert config.log_level is LogLevel.DEBUG
    assert config.pg_auth is PgAuth.TRUST
    assert config.row_identify is Identify.FULL
    assert config.transaction_hold == 0.3
    assert config.replication_policy == "by_start_time=2026-01-31 12:00:00"
    assert config.nats_store_dir == Path("/data/nats")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--prot", "1"], ("--prot", "did you mean --port?")),
        (["--replication-urls", "x"], ("--replication-url?",)),
        (["--quite-unlike-any"], ("--quite-unlike-any", "--help")),
        (["-x"], ("-x", "--help")),
        (["-port", "3"], ("-port", "--port")),
        (["-help"], ("--help",)),
        (["--port"], ("--port", "value")),
        (["--port", "--memory"], ("--port", "value")),
        (["-p"], ("-p", "value")),
        (["--port", "x"], ("--port", "'x'", "65535")),
        (["-p", "70000"], ("-p", "'70000'", "65535")),
        (["--port", "-1"], ("'-1'", "0 to 65535")),
        (["--memory=perhaps"], ("--memory", "'perhaps'", "true or false")),
        (["--replication-timeout", "15"], ("--replication-timeout", "'15'", "15s")),
        (["--replication-timeout", "0s"], ("more than 0s",)),
        (["--replication-max-age", "-1s"], ("negative",)),
        (["--replicas", "6"], ("1 to 5",)),
        (["--concurrent-queries", "0"], ("--concurrent-queries",)),
        (["--log-level", "loud"], ("debug, info, warn or error",)),
        (["--replication-policy", "by_start_time=yesterday"], ("by_start_sequence=NUMBER",)),
        (["--replication-policy", "by_start_time=2026-02-31 00:00:00"], ("by_start_time",)),
        (["--replication-url", "http://localhost"], ("nats://host:4222",)),
        (["--replication-stream", "a.b"], ("--replication-stream",)),
        (["--name", "..."], ("--name",)),
        (["--max-body", "0"], ("4MiB",)),
        (["--db-params", "_nope=1"], ("--db-params", "_nope")),
        (["--pg-port", "8080"], ("--pg-port", "--port", "8080")),
        (["--pg-cert", "x"], ("--pg-cert", "--pg-key")),
        (
            ["--pg-port", "5432", "--pg-auth", "password"],
            ("--pg-auth", "--pg-cert", "--pg-insecure"),
        ),
        (["--nats-pass", "x"], ("--nats-pass", "--nats-user")),
        (["--nats-config", "/nowhere/nats.conf"], ("--nats-config", "/nowhere/nats.conf")),
        (["--name", "a\nb\x1b[31m" + "c" * 200, "--port", "a\nb"], ("\\n",)),
    ],
)
def test_a_bad_flag_is_refused_by_name(arguments: Sequence[str], names: Sequence[str]) -> None:
    message = refusal(*arguments)
    for name in names:
        assert name in message


def test_a_bad_secret_is_not_repeated() -> None:
    message = refusal("--replication-url", "http://u:pa55word@host")
    assert "pa55word" not in message
    assert "--replication-url" in message


def test_help_and_version_win() -> None:
    for arguments in (["--help"], ["-h"], ["--port", "1", "-h"]):
        with pytest.raises(HelpWanted):
            configure(*arguments)
    with pytest.raises(VersionWanted):
        configure("--version")
    with pytest.raises(VersionWanted):
        configure(env={"HA_VERSION": "true"})
    assert configure(env={"HA_VERSION": "1.2.3"}) == configure()


# --- environment and file ------------------------------------------------------------


def test_flag_beats_environment_beats_file_beats_default(conf: Path) -> None:
    conf.write_text("port 1003\npg-port 2003\nreplicas 3\n")
    env = {"HA_PORT": "1002", "HA_PG_PORT": "2002"}
    config = configure("--port", "1001", env=env, file=conf)
    assert (config.port, config.pg_port, config.replicas) == (1001, 2002, 3)
    assert config.concurrent_queries == 50


def test_a_flag_that_says_the_default_beats_the_environment() -> None:
    assert configure("--memory=false", env={"HA_MEMORY": "true"}).memory is False
    assert configure("--port", "8080", env={"HA_PORT": "1"}).port == 8080


def test_the_file_may_be_named_in_the_environment(conf: Path) -> None:
    conf.write_text("port 1003\n")
    assert configure(env={"HA_CONFIG": str(conf)}).port == 1003


def test_an_empty_variable_and_a_foreign_one_are_not_ours() -> None:
    assert configure(env={"HA_PORT": "", "HA_SERVICE_HOST": "x", "PORT": "1"}) == configure()


def test_the_form_of_the_file(conf: Path) -> None:
    conf.write_text(
        "# a comment\n"
        "\n"
        "   memory\n"
        "disable-ddl-sync false\n"
        "nats-logs\ttrue   # and why\n"
        "token a#b with blanks \n"
        "replication-policy by_start_time=2026-01-31 12:00:00\r\n"
    )
    config = configure(file=conf)
    assert config.memory
    assert not config.disable_ddl_sync
    assert config.nats_logs
    assert config.token == "a#b with blanks"
    assert config.replication_policy == "by_start_time=2026-01-31 12:00:00"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("prot 1\n", ("'prot'", "line 1 of", "did you mean port?")),
        ("\n\nport x\n", ("'x'", "port", "line 3 of")),
        ("port\n", ("port", "line 1 of", "value")),
        ("port 1\nport 2\n", ("port", "line 2 of", "line 1")),
        ("port=1\n", ("line 1 of", "'port VALUE'")),
        ("port: 1\n", ("line 1 of", "'port VALUE'")),
        ("--port 1\n", ("line 1 of", "'port VALUE'")),
        ("config other.conf\n", ("line 1 of", "another")),
        ("mysql-port 3306\n", ("mysql-port", "line 1 of", "the MySQL wire protocol")),
    ],
)
def test_a_bad_line_is_refused_by_its_number(conf: Path, text: str, names: Sequence[str]) -> None:
    conf.write_text(text)
    message = refusal(file=conf)
    for name in names:
        assert name in message
    assert str(conf) in message


def test_a_bad_variable_is_refused_by_name() -> None:
    message = refusal(env={"HA_PORT": "tcp://10.0.0.1:8080"})
    assert "HA_PORT in the environment" in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.conf"
    assert str(missing) in refusal(file=missing)
    assert str(tmp_path) in refusal(file=tmp_path)
    binary = tmp_path / "binary.conf"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refusal(file=binary)


# --- what is not built ---------------------------------------------------------------


def text_of_another_value(flag: str) -> str:
    """Some value of the flag that is not its default."""
    option = next(o for o in OPTIONS if o.flag == flag)
    for text in ("true", "3306", "5m", "7MiB", "x:9092", "/some/path", "some-text"):
        try:
            if option.parse(text) != option.default:
                return text
        except ValueError:
            continue
    raise AssertionError(f"no value for {flag}")


@pytest.mark.parametrize("flag", [flag for flags in NOT_BUILT.values() for flag in flags])
def test_a_flag_without_its_feature_is_refused_in_all_three_places(conf: Path, flag: str) -> None:
    text = text_of_another_value(flag)
    variable = "HA_" + flag.replace("-", "_").upper()
    conf.write_text(f"{flag} {text}\n")
    for message, where in (
        (refusal(f"--{flag}={text}"), f"--{flag}"),
        (refusal(env={variable: text}), variable),
        (refusal(file=conf), f"{flag} in line 1"),
    ):
        assert where in message
        assert "not built yet" in message


def test_such_a_flag_may_say_its_default() -> None:
    for option in OPTIONS:
        if not option.built and option.default_text:
            configure(f"--{option.flag}={option.default_text}")


def test_not_built_names_flags_that_exist() -> None:
    assert {f for flags in NOT_BUILT.values() for f in flags} <= {o.flag for o in OPTIONS}


# --- databases -----------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ids(config: Config) -> list[str]:
    return [d.database_id for d in config.databases]


def test_without_a_name_it_is_ha_db() -> None:
    (dsn,) = configure().databases
    assert (dsn.path, dsn.memory) == ("ha.db", False)
    assert dict(dsn.pragmas) == {"journal_mode": "WAL", "busy_timeout": "5000"}
    assert configure("-m").databases[0].source is None


def test_patterns_are_expanded(folder: Path) -> None:
    for name in ("b.db", "a.db", "a.db-wal", "a.db-shm", "c.txt"):
        (folder / name).touch()
    (folder / "d.db").mkdir()
    assert ids(configure("*.db")) == ["a.db", "b.db"]
    assert ids(configure("[b].db", "a*")) == ["b.db", "a.db"]
    assert "'*.sqlite'" in refusal("*.sqlite")


def test_a_file_whose_name_is_a_pattern_is_itself(folder: Path) -> None:
    (folder / "a[1].db").touch()
    assert ids(configure("a[1].db")) == ["a[1].db"]


def test_parameters_are_no_pattern(folder: Path) -> None:
    assert ids(configure("x.db?_timeout=1")) == ["x.db"]
    assert ids(configure("file:x.db?_timeout=1")) == ["x.db"]


def test_flags_and_databases_mix_and_dashes_end_flags(folder: Path) -> None:
    config = configure("a.db", "--port", "1", "b.db", "--", "--port")
    assert config.port == 1
    assert ids(config) == ["a.db", "b.db", "--port"]


def test_databases_that_cannot_be(folder: Path) -> None:
    (folder / "sub").mkdir()
    assert "'sub'" in refusal("sub")
    assert "'none/x.db'" in refusal("none/x.db")
    assert "mode=rw" in refusal("file:x.db?mode=rw")
    assert "'a.db'" in refusal("a.db", "sub/a.db")
    assert "'a'" in refusal("a.db", "a")
    assert "_nope" in refusal("file:x.db?_nope=1")


def test_a_missing_file_may_become_a_memory_database(folder: Path) -> None:
    (dsn,) = configure("-m", "new.db").databases
    assert dsn == Dsn("new.db", memory=True, source="new.db", pragmas=dsn.pragmas)


def test_full_durability_forbids_a_weaker_sync() -> None:
    assert "synchronous=NORMAL" in refusal("--durability", "full", "file:x.db?_sync=NORMAL")
    assert "synchronous=OFF" in refusal("--durability", "full", "--db-params", "_sync=OFF")
    assert configure("--durability", "full", "file:x.db?_sync=EXTRA").databases
    assert configure("file:x.db?_sync=OFF").databases


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_no_database_by_accident(folder: Path, command: str) -> None:
    assert f"./{command}" in refusal("--port", "1", command)
    assert ids(configure(f"./{command}")) == [command]


# --- help ----------------------------------------------------------------------------


def test_help_names_every_option_its_variable_and_its_default() -> None:
    text = help_text()
    for option in OPTIONS:
        assert f"--{option.flag}" in text
        if option.built:
            assert f"[{option.environment}={option.default_text}]" in text
    assert max(map(len, text.splitlines())) <= WIDTH
    for command in COMMANDS:
        assert command in text


# --- any input at all ----------------------------------------------------------------

words = st.one_of(
    st.sampled_from([f"--{o.flag}" for o in OPTIONS] + [f"-{o.short}" for o in OPTIONS if o.short]),
    st.sampled_from(["--", "-", "=", "true", "0", "1", "5s", "x.db", "--=", "-m=", "file:"]),
    st.text(max_size=12),
)


def outcome(arguments: Sequence[str]) -> str:
    """What is said about them; empty when they are understood."""
    try:
        parse(arguments, {})
    except UsageError as error:
        return str(error)
    except (HelpWanted, VersionWanted):
        pass
    return ""


@given(arguments=st.lists(words, max_size=6))
def test_any_command_line_is_understood_or_refused_in_one_line(arguments: list[str]) -> None:
    assert outcome(arguments).isprintable()


@given(text=st.text(max_size=80))
def test_any_file_is_understood_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any-{os.getpid()}.conf"
    path.write_text(text, encoding="utf-8", errors="replace")
    assert outcome(["--config", str(path)]).isprintable()
