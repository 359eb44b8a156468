"""What an operator writes comes into force, later sources win, and everything else is one line and exit status 2."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import tomllib
from datetime import UTC, time
from pathlib import Path

import pytest
from pydantic import ValidationError

from migrate_v2 import ownfiles, settings
from migrate_v2.errors import BadUsage, Refused
from migrate_v2.settings import (
    PREFIX,
    SETTING,
    TABLE,
    Bandwidth,
    Settings,
    bandwidth,
    bandwidth_at,
    count,
    duration,
    load,
    rows,
)

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4

# Section 3 of the design, and `engine`, which --engine sets.
NAMES = [
    "local_base_path",
    "state_db_path",
    "glacier_restore_days",
    "glacier_restore_tier",
    "max_glacier_restores",
    "restore_poll_seconds",
    "batch_role_arn",
    "batch_report_bucket",
    "max_change",
    "excluded_buckets",
    "max_concurrent_downloads",
    "max_concurrent_verifications",
    "download_chunk_size",
    "batch_size",
    "db_batch_commit_size",
    "multipart_threshold",
    "multipart_chunksize",
    "max_concurrency",
    "use_threads",
    "aws_path",
    "noncurrent",
    "adopt",
    "adopt_roots",
    "metadata",
    "max_bandwidth",
    "max_quarantine",
    "expected_bucket_owner",
    "notify_command",
    "engine",
]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def from_environment(here: Path, **values: str) -> Settings:
    return load({}, None, {PREFIX + name.upper(): value for name, value in values.items()}, here)


def from_toml(here: Path, text: str) -> Settings:
    (here / "migrate-v2.toml").write_text(text)
    return load({}, "migrate-v2.toml", {}, here)


def refusal(*args: object) -> str:
    with pytest.raises(BadUsage) as refused:
        load(*args)  # type: ignore[arg-type]
    line = str(refused.value)
    assert refused.value.code == 2
    assert line.isprintable(), "a refusal is one line that steers no terminal"
    return line


# the table


def test_every_setting_of_the_design_is_there_and_no_other() -> None:
    assert sorted(Settings.model_fields) == sorted(NAMES) == sorted(setting.name for setting in TABLE)


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_every_setting_says_what_it_is_for_each_engine(setting) -> None:
    words = (setting.default, setting.allowed, setting.description, setting.cli, setting.native)
    assert all(text and text.isprintable() and text == text.strip() for text in words)
    assert setting.variable == "MIGRATE_V2_" + setting.name.upper()


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_a_default_is_a_value_that_could_be_written(here: Path, setting) -> None:
    by_default = getattr(load({}, None, {}, here), setting.name)
    if setting.default.startswith("("):
        assert not by_default or setting.name == "max_concurrent_verifications"
        return
    written = getattr(from_environment(here, **{setting.name: setting.default}), setting.name)
    if setting.name == "max_bandwidth":
        assert bandwidth_at(by_default, time(12)) is bandwidth_at(written, time(12)) is None
    else:
        assert written == by_default


def test_the_defaults(here: Path) -> None:
    settings = load({}, None, {}, here)
    assert settings.local_base_path is None
    assert settings.state_db_path == here / "s3_migration_state.db"
    assert (settings.engine, settings.noncurrent, settings.metadata) == ("cli", "fetch", "head")
    assert (settings.glacier_restore_days, settings.glacier_restore_tier) == (7, "Standard")
    assert settings.max_glacier_restores == 100_000
    assert settings.restore_poll_seconds is None
    assert settings.excluded_buckets == ()
    assert 1 <= settings.max_concurrent_verifications <= 64
    assert settings.download_chunk_size == MIB
    for name in ("multipart_threshold", "multipart_chunksize", "max_concurrency", "use_threads"):
        assert getattr(settings, name) is None
        assert settings.origin(name) == "tuned"


def test_rows_hold_every_setting_ready_for_json(here: Path) -> None:
    settings = from_toml(
        here,
        'excluded_buckets = ["a", "b"]\nmultipart_threshold = "8MB"\nuse_threads = false\n'
        'max_bandwidth = "08:00 5MB/s, 19:00 off"\nnotify_command = "mail\\u001b[2J"\n',
    )
    table = {row.name: row for row in rows(settings)}
    assert list(table) == [setting.name for setting in TABLE]
    json.dumps([row.value for row in table.values()])
    assert all(row.text.isprintable() and row.text for row in table.values())
    assert table["excluded_buckets"].value == ("a", "b")
    assert table["excluded_buckets"].text == "a,b"
    assert (table["multipart_threshold"].value, table["multipart_threshold"].text) == (8 * MIB, "8MiB")
    assert table["multipart_chunksize"].text == "(tuned)"
    assert table["use_threads"].text == "false"
    assert table["max_bandwidth"].value == "08:00 5MB/s, 19:00 off"
    assert table["notify_command"].value == "mail\x1b[2J"
    assert table["state_db_path"].value == str(here / "s3_migration_state.db")
    assert table["multipart_threshold"].origin == "migrate-v2.toml"
    assert table["engine"].meaning_native != table["engine"].meaning_cli
    assert table["noncurrent"].meaning_native == table["noncurrent"].meaning_cli == SETTING["noncurrent"].cli


# sources


def test_later_sources_win_and_each_value_knows_where_it_came_from(here: Path) -> None:
    (here / "migrate-v2.toml").write_text('state_db_path = "a.db"\nbatch_size = 5\nlocal_base_path = "toml"\n')
    environ = {"MIGRATE_V2_STATE_DB_PATH": "b.db", "MIGRATE_V2_LOCAL_BASE_PATH": "env", "MIGRATE_V2_USE_THREADS": "no"}
    settings = load({"state_db_path": "c.db", "engine": None}, None, environ, here)
    found = {name: (getattr(settings, name), settings.origin(name)) for name in NAMES}
    assert found["state_db_path"] == (here / "c.db", "--state")
    assert found["local_base_path"] == (here / "env", "MIGRATE_V2_LOCAL_BASE_PATH")
    assert found["batch_size"] == (5, "migrate-v2.toml")
    assert found["use_threads"] == (False, "MIGRATE_V2_USE_THREADS")
    assert found["engine"] == ("cli", "default")
    with pytest.raises(KeyError):
        settings.origin("batchsize")


def test_the_settings_file_is_looked_for_in_order(here: Path, tmp_path: Path) -> None:
    def batch_size(config: str | None, environ: dict[str, str]) -> tuple[int, str]:
        settings = load({}, config, environ, here)
        return settings.batch_size, settings.origin("batch_size")

    home, xdg = tmp_path / "home", tmp_path / "xdg"
    places = {
        1: here / "flag.toml",
        2: here / "variable.toml",
        3: here / "migrate-v2.toml",
        4: xdg / "migrate-v2" / "config.toml",
        5: home / ".config" / "migrate-v2" / "config.toml",
    }
    for number, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"batch_size = {number}\n")
    environ = {"MIGRATE_V2_CONFIG": "variable.toml", "XDG_CONFIG_HOME": str(xdg), "HOME": str(home)}
    assert batch_size("flag.toml", environ) == (1, "flag.toml")
    assert batch_size(None, environ) == (2, "variable.toml")
    environ["MIGRATE_V2_CONFIG"] = ""
    assert batch_size(None, environ) == (3, "migrate-v2.toml")
    places[3].unlink()
    assert batch_size(None, environ) == (4, str(places[4]))
    environ["XDG_CONFIG_HOME"] = "relative"
    assert batch_size(None, environ) == (5, str(places[5]))
    places[5].unlink()
    assert batch_size(None, environ) == (1000, "default")


def test_a_named_settings_file_has_to_be_there(here: Path) -> None:
    assert refusal({}, "gone.toml", {}, here) == "settings file gone.toml (from --config) does not exist"
    line = refusal({}, None, {"MIGRATE_V2_CONFIG": "gone\n.toml"}, here)
    assert line == "settings file gone\\n.toml (from MIGRATE_V2_CONFIG) does not exist"
    (here / "file").touch()
    assert "does not exist" in refusal({}, "file/x.toml", {}, here)
    assert refusal({}, "", {}, here) == "settings file '' (from --config): must be a file"
    assert "nobody" in refusal({}, "~nobody/x.toml", {}, here)
    assert refusal({}, ".", {}, here) == "settings file . cannot be read: Is a directory"
    assert "cannot be read" in refusal({}, "x" * 5000, {}, here)
    (here / "migrate-v2.toml").mkdir()
    assert refusal({}, None, {}, here) == "settings file migrate-v2.toml cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b"batch_size = 1\nmetadata = head\n", "line 2"),
        (b"batch_size = 1\n\nbatch_size = 2\n", "line 3"),
        (b"batch_size = 1\nexcluded_buckets = [\n  'a',\n", "line 3"),
        (b"batch_size = 1\n# caf\xe9\n", "UTF-8 at line 2"),
        (b"batch_size = 1\nx = '\x1b[2J\n", "line 2"),
        (b"batch_size = 1\nx = {'\\u001b' = 1, '\\u001b' = 2}\n", "line 2"),
        (b"x = " + b"9" * 5000, "TOML"),
        (b"x = " + b"[" * 5000, "TOML"),
    ],
)
def test_a_broken_settings_file_is_one_line_with_the_line_number(here: Path, raw: bytes, where: str) -> None:
    (here / "migrate-v2.toml").write_bytes(raw)
    line = refusal({}, None, {}, here)
    assert line.startswith("settings file migrate-v2.toml ")
    assert where in line


def test_a_settings_file_may_begin_with_a_byte_order_mark(here: Path) -> None:
    (here / "migrate-v2.toml").write_bytes(b"\xef\xbb\xbfbatch_size = 3\r\n")
    assert load({}, None, {}, here).batch_size == 3


def test_nothing_is_read_from_the_process_itself(here: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from migrate_v2.settings import load, Settings;"
        "s = load({}, None, {}, Path(sys.argv[1]));"
        "print(s.batch_size, s.origin('batch_size'), Settings().batch_size)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(here)],
        env=os.environ | {"MIGRATE_V2_BATCH_SIZE": "5", "BATCH_SIZE": "5", "MIGRATE_V2_NONSENSE": "5"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["1000", "default", "1000"]


def test_settings_do_not_change_and_travel_to_a_worker(here: Path) -> None:
    settings = from_environment(here, batch_size="5", max_bandwidth="08:00 5MB/s, 19:00 off")
    with pytest.raises(ValidationError):
        settings.batch_size = 6
    there = pickle.loads(pickle.dumps(settings))
    assert there == settings
    assert there.origin("batch_size") == "MIGRATE_V2_BATCH_SIZE"


# paths


def test_relative_paths_are_relative_to_the_working_folder_wherever_they_are_written(
    here: Path, tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "s.toml").write_text('state_db_path = "a/s.db"\naws_path = "~/bin/aws"\n')
    settings = load({"local_base_path": "../out"}, "../etc/s.toml", {"HOME": "/home/op"}, here)
    assert settings.state_db_path == here / "a" / "s.db"
    assert settings.aws_path == Path("/home/op/bin/aws")
    assert settings.base() == here / ".." / "out"
    assert load({"local_base_path": "~"}, None, {"HOME": "/home/op"}, here).base() == Path("/home/op")
    assert load({"local_base_path": "~//x"}, None, {"HOME": "op"}, here).base() == here / "op" / "x"
    assert load({"local_base_path": "/srv//x/"}, None, {}, here).base() == Path("/srv/x")


def test_a_path_need_not_be_utf8(here: Path) -> None:
    odd = os.fsdecode(b"/srv/caf\xe9")
    settings = load({"local_base_path": odd}, None, {}, here)
    assert os.fsencode(settings.base()) == b"/srv/caf\xe9"
    assert next(iter(rows(settings))).text.isprintable()


@pytest.mark.parametrize("value", ["", "  ", "a\0b", "~bob/x", "~/x"])
def test_a_path_that_is_none_is_refused(here: Path, value: str) -> None:
    line = refusal({"local_base_path": value}, None, {}, here)  # ~/x: HOME is not set
    assert line.startswith("local_base_path = '")
    assert "(from --dest)" in line


def test_no_base_path_is_said_with_all_three_ways_to_give_one(here: Path) -> None:
    with pytest.raises(BadUsage) as refused:
        load({}, None, {"MIGRATE_V2_LOCAL_BASE_PATH": ""}, here).base()
    line = str(refused.value)
    assert line.isprintable()
    assert all(way in line for way in ("--dest", "MIGRATE_V2_LOCAL_BASE_PATH", "local_base_path in migrate-v2.toml"))


# values

TAKEN = [
    ("glacier_restore_days", "1", 1),
    ("glacier_restore_days", "30000", 30000),
    ("glacier_restore_tier", "BULK", "Bulk"),
    ("glacier_restore_tier", " expedited ", "Expedited"),
    ("max_glacier_restores", "1", 1),
    ("restore_poll_seconds", "0.5", 0.5),
    ("restore_poll_seconds", "604800", 604800.0),
    ("batch_role_arn", "arn:aws-us-gov:iam::123456789012:role/a/b", "arn:aws-us-gov:iam::123456789012:role/a/b"),
    ("batch_report_bucket", "reports", "reports"),
    ("excluded_buckets", "a, b,,a,logs.x_Y-1,", ("a", "b", "logs.x_Y-1")),
    ("max_concurrent_downloads", "256", 256),
    ("max_concurrent_verifications", "64", 64),
    ("download_chunk_size", "64KiB", 64 * KIB),
    ("download_chunk_size", "1gb", GIB),
    ("batch_size", "100000", 100_000),
    ("db_batch_commit_size", "1", 1),
    ("multipart_threshold", "1", 1),
    ("multipart_threshold", "8MB", 8 * MIB),
    ("multipart_threshold", "8 MiB", 8 * MIB),
    ("multipart_threshold", "50TB", 50 * TIB),
    ("multipart_chunksize", "5GB", 5 * GIB),
    ("max_concurrency", "1", 1),
    ("use_threads", "TRUE", True),
    ("use_threads", "off", False),
    ("noncurrent", "Keep", "keep"),
    ("adopt", "Move", "move"),
    ("adopt_roots", "/a:/b::/a", (Path("/a"), Path("/b"))),
    ("metadata", "FULL", "full"),
    ("max_quarantine", "2GB", 2 * GIB),
    ("expected_bucket_owner", "012345678901", "012345678901"),
    ("notify_command", "mail -s 'done' me", "mail -s 'done' me"),
    ("engine", "CLI", "cli"),
]


@pytest.mark.parametrize(("name", "text", "value"), TAKEN)
def test_a_value_is_taken(here: Path, name: str, text: str, value: object) -> None:
    assert getattr(from_environment(here, **{name: text}), name) == value


REFUSED = [
    ("glacier_restore_days", ["0", "30001", "7.5", "seven", "-1"], "from 1 to 30000"),
    ("glacier_restore_tier", ["Fast", "Standard,Bulk"], "Standard, Expedited or Bulk"),
    ("max_glacier_restores", ["0", "1000000001"], "from 1 to 1000000000"),
    ("max_change", ["-1", "101", "5%"], "from 0 to 100"),
    ("restore_poll_seconds", ["0", "-5", "nan", "inf", "5m", "604801"], "above 0, up to 604800"),
    ("batch_role_arn", ["restores", "arn:aws:iam::1:role/x", "arn:aws:iam::123456789012:user/x"], "ARN of a role"),
    ("batch_report_bucket", ["s3://reports", "a/b"], "not migrated itself"),
    ("excluded_buckets", ["*-logs", "a b", "s3://a", "ü"], "bucket names"),
    ("max_concurrent_downloads", ["0", "257"], "from 1 to 256"),
    ("max_concurrent_verifications", ["0", "65"], "from 1 to 64"),
    ("download_chunk_size", ["65535", "1073741825", "8M", "8MBs", "1.5MB", "-1MB", "9" * 5000], "64KiB to 1GiB"),
    ("batch_size", ["0", "100001"], "from 1 to 100000"),
    ("db_batch_commit_size", ["0", "100001"], "from 1 to 100000"),
    ("multipart_threshold", ["0", str(50 * TIB + 1)], "1 byte to 50TiB"),
    ("multipart_chunksize", ["65535", str(5 * GIB + 1)], "64KiB to 5GiB"),
    ("max_concurrency", ["0", "257"], "from 1 to 256"),
    ("use_threads", ["maybe", "2"], "true or false"),
    ("noncurrent", ["drop"], "fetch or keep"),
    ("adopt", ["link"], "reflink, copy or move"),
    ("metadata", ["all"], "none, head or full"),
    ("max_bandwidth", ["0", "20Mb/s", "20MB", "fast", "5iB/s", "1023", "9" * 5000], "rate"),
    ("max_bandwidth", ["08:00 5MB/s, 8:00 off"], "08:00 is there twice"),
    (
        "max_bandwidth",
        ["24:00 5MB/s", "0:" * 900, "08:60 5MB/s", "08:00", "08:00 5MB/s,", "5MB/s, 19:00 off"],
        "a time and a rate",
    ),
    ("max_quarantine", ["0", "10%", "-1"], "1 byte to 50TiB"),
    ("expected_bucket_owner", ["123", "1234567890123", "12345678901x", "١٢٣٤٥٦٧٨٩٠١٢"], "12 digits"),
    ("notify_command", ["  "], "a command line"),
    ("engine", ["rust"], "must be cli"),
]


@pytest.mark.parametrize(("name", "text", "allowed"), [(n, t, a) for n, texts, a in REFUSED for t in texts])
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(here: Path, name: str, text: str, allowed: str) -> None:
    variable = PREFIX + name.upper()
    line = refusal({}, None, {variable: text}, here)
    assert line.startswith(f"{name} = '")
    assert f"(from {variable}): " in line
    assert allowed in line.split(": ", 1)[1] if allowed != "rate" else re.search(r"capital B|1KB/s", line)
    assert len(line) < 300


def test_every_setting_but_folders_was_tried_with_a_wrong_value() -> None:
    assert {name for name, _, _ in REFUSED} == set(NAMES) - {
        "local_base_path",
        "state_db_path",
        "aws_path",
        "adopt_roots",
    }


def test_adopt_roots_are_folders_relative_to_the_working_folder(here: Path) -> None:
    made = from_toml(here, 'adopt_roots = ["old", "/srv/x"]')
    assert made.adopt_roots == (here / "old", Path("/srv/x"))
    assert {row.name: row for row in rows(made)}["adopt_roots"].value == (str(here / "old"), "/srv/x")
    assert "adopt_roots" in refusal({}, None, {"MIGRATE_V2_ADOPT_ROOTS": "~bob/x"}, here)
    (here / "migrate-v2.toml").write_text("adopt_roots = [1]")
    assert "adopt_roots" in refusal({}, "migrate-v2.toml", {}, here)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "glacier_restore_days = true",
            "glacier_restore_days = True (from migrate-v2.toml): must be a whole number from",
        ),
        (
            "batch_size = 08:00:00",
            "batch_size = datetime.time(8, 0) (from migrate-v2.toml): must be a whole number from",
        ),
        ("restore_poll_seconds = true", "restore_poll_seconds = True"),
        ("multipart_threshold = true", "multipart_threshold = True"),
        ("multipart_threshold = -1", "multipart_threshold = -1"),
        ("max_bandwidth = true", "max_bandwidth = True (from migrate-v2.toml): must be a rate (20MB/s, "),
        ("max_bandwidth = 0.5", "max_bandwidth = 0.5"),
        ("expected_bucket_owner = true", "expected_bucket_owner = True"),
        (
            "excluded_buckets = ['a', 'b\\c']",
            "excluded_buckets = 'b\\\\c' (from migrate-v2.toml): must be bucket names",
        ),
        ("excluded_buckets = ['a', 5]", "excluded_buckets = 5"),
        ("excluded_buckets = 5", "excluded_buckets = 5"),
        ("[excluded_buckets]\na = 1", "excluded_buckets = a table"),
        ("engine.native = 1", "engine = a table (from migrate-v2.toml): must be cli"),
        ("aws_path = 5", "aws_path = 5 (from migrate-v2.toml): must be a file"),
        ("local_base_path = {a = 1}", "local_base_path = a table (from migrate-v2.toml): must be a folder"),
        ("notify_command = ['a']", "notify_command = ['a']"),
        ('metadata = "\\u001b[2J\\n\\u202e"', "metadata = '\\x1b[2J\\n\\u202e' (from migrate-v2.toml): must be none, "),
    ],
)
def test_a_wrong_value_in_the_file_is_one_line_too(here: Path, text: str, line: str) -> None:
    (here / "migrate-v2.toml").write_text(text)
    assert refusal({}, "migrate-v2.toml", {}, here).startswith(line)


def test_several_wrong_values_are_said_together(here: Path) -> None:
    (here / "migrate-v2.toml").write_text("batch_size = 0\nglacier_restore_days = 0\n")
    line = refusal({"local_base_path": "", "engine": "rust"}, None, {"MIGRATE_V2_BATCH_SIZE": "-1"}, here)
    assert [part.split(" = ")[0] for part in line.split("; ") if " = " in part] == [
        "local_base_path",
        "engine",
        "glacier_restore_days",
        "batch_size",
    ]
    assert "batch_size = '-1' (from MIGRATE_V2_BATCH_SIZE)" in line


def test_a_wrong_value_that_a_later_source_overrides_is_not_in_force(here: Path) -> None:
    (here / "migrate-v2.toml").write_text('engine = "rust"\n')
    assert load({"engine": "cli"}, None, {}, here).origin("engine") == "--engine"


def test_toml_has_its_own_types(here: Path) -> None:
    settings = from_toml(
        here,
        'excluded_buckets = ["a", "b", "a"]\nuse_threads = true\nmultipart_chunksize = 8388608\nmax_bandwidth = 1000000\n'
        "restore_poll_seconds = 1.5\nexpected_bucket_owner = 123456789012\n",
    )
    assert settings.excluded_buckets == ("a", "b")
    assert settings.use_threads is True
    assert settings.multipart_chunksize == 8 * MIB
    assert bandwidth_at(settings.max_bandwidth, time(3)) == 1_000_000
    assert settings.restore_poll_seconds == 1.5
    assert settings.expected_bucket_owner == "123456789012"
    assert from_toml(here, 'excluded_buckets = "a,b"').excluded_buckets == ("a", "b")
    assert from_toml(here, "excluded_buckets = []").excluded_buckets == ()


# unknown names


@pytest.mark.parametrize(
    ("text", "name", "meant"),
    [
        ("glacier_restore_day = 1", "glacier_restore_day", "glacier_restore_days"),
        ("Batch-Size = 1", "Batch-Size", "batch_size"),
        ("dest = '/x'", "dest", "local_base_path"),
        ("[glacier]\nrestore_days = 1", "glacier.restore_days", "glacier_restore_days"),
        ("[migrate-v2]\nmetadata = 1", "migrate-v2.metadata", "metadata"),
        ("[download]\nchunk = 1", "download.chunk", "download_chunk_size"),
        ("[[aws]]\nx = 1", "aws", "aws_path"),
        ("[nothing]", "nothing", None),
        ('"a\\u001b[2J" = 1', "a\\x1b[2J", None),
        (".".join("a" * 3000) + " = 1", "a.a.a.a.a.a", None),
    ],
)
def test_an_unknown_name_in_the_file_is_refused(here: Path, text: str, name: str, meant: str | None) -> None:
    (here / "migrate-v2.toml").write_text(text)
    hint = f"did you mean {meant}?" if meant else "the README lists them all"
    assert refusal({}, None, {}, here) == f"no setting {name} (in migrate-v2.toml); {hint}"


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("MIGRATE_V2_BASE_PATH", "MIGRATE_V2_LOCAL_BASE_PATH"),
        ("MIGRATE_V2_DEST", "MIGRATE_V2_LOCAL_BASE_PATH"),
        ("MIGRATE_V2_batch_size", "MIGRATE_V2_BATCH_SIZE"),
        ("MIGRATE_V2_CONFG", "MIGRATE_V2_CONFIG"),
        ("MIGRATE_V2_", None),
    ],
)
def test_an_unknown_variable_is_refused_without_its_value(here: Path, variable: str, meant: str | None) -> None:
    hint = f"did you mean {meant}?" if meant else "the README lists them all"
    assert refusal({}, None, {variable: "hunter2"}, here) == f"no setting {variable} (in the environment); {hint}"


def test_all_unknown_names_are_said_together_and_other_variables_are_nobodys_business(here: Path) -> None:
    (here / "migrate-v2.toml").write_text("a1 = 1\nb1 = 1\n")
    assert refusal({"zz": "1"}, None, {"MIGRATE_V2_Q9": ""}, here).count("no setting") == 4
    (here / "migrate-v2.toml").unlink()
    assert load({}, None, {"MIGRATE_V3_X": "1", "XMIGRATE_V2_X": "1", "migrate_v2_x": "1", "BATCH_SIZE": "2"}, here)


# bandwidth


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20MB/s", 20 * MIB),
        ("20MiB/s", 20 * MIB),
        ("20 mB/s", 20 * MIB),
        ("1KB/s", KIB),
        ("2048B/s", 2048),
        ("1024", 1024),
        ("off", None),
        ("OFF", None),
    ],
)
def test_one_rate_holds_all_day(text: str, rate: int | None) -> None:
    limit = bandwidth(text)
    assert {bandwidth_at(limit, time(hour, minute)) for hour in range(24) for minute in (0, 59)} == {rate}


@pytest.mark.parametrize("text", ["08:00 5MB/s, 19:00 off, 23:30 1MB/s", "19:00 off,23:30   1MB/s, 8:00 5MB/s"])
@pytest.mark.parametrize(
    ("clock", "rate"),
    [
        (time(0), MIB),
        (time(7, 59, 59, 999999), MIB),
        (time(8), 5 * MIB),
        (time(18, 59, 59), 5 * MIB),
        (time(19), None),
        (time(23, 29, 59), None),
        (time(23, 30), MIB),
        (time(23, 59, 59), MIB),
        (time(8, tzinfo=UTC), 5 * MIB),
    ],
)
def test_a_timetable_holds_past_midnight(text: str, clock: time, rate: int | None) -> None:
    assert bandwidth_at(bandwidth(text), clock) == rate


def test_a_timetable_of_one_time_holds_all_day() -> None:
    limit = bandwidth("08:00 5MB/s")
    assert bandwidth_at(limit, time(3)) == bandwidth_at(limit, time(9)) == 5 * MIB


def test_no_limit_is_none_at_any_time_and_a_limit_keeps_its_text() -> None:
    assert bandwidth(None) is None
    assert bandwidth_at(None, time(12)) is None
    assert bandwidth("  off ") == Bandwidth("off", ((time(0), None),))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43200), ("7d", 604800), (" 2 H ", 7200), (None, None)]
)
def test_a_duration_is_a_number_and_a_unit(text: str | None, seconds: int | None) -> None:
    said = duration("--trust-recent", text)
    assert (said and said.total_seconds()) == seconds


@pytest.mark.parametrize("text", ["", "12", "h", "0h", "-1h", "1.5h", "1w", "1h30m", "9999999d", "1h\x1b[2J"])
def test_what_is_no_duration_is_said_in_a_line(text: str) -> None:
    with pytest.raises(
        BadUsage, match=r"--trust-recent=.*must be a whole number of seconds, minutes, hours or days"
    ) as said:
        duration("--trust-recent", text)
    assert "\x1b" not in str(said.value)


def test_a_count_is_a_whole_number_from_one() -> None:
    assert count("--max-delete", None) is None and count("--max-delete", " 10 ") == 10
    for text in ("", "0", "-1", "1.5", "ten", "1" * 16):
        with pytest.raises(BadUsage, match=r"--max-delete=.*must be a whole number from 1"):
            count("--max-delete", text)


# What diagnose advises


def test_advice_goes_in_beside_what_the_operator_wrote() -> None:
    text = "# mine\nmax_concurrency = 4 # so\n\nlocal_base_path = '/srv'"
    after, staying = settings.with_advice(
        text, {"max_concurrency": 32, "engine": "cli", "multipart_chunksize": "16MiB"}
    )
    assert staying == ["max_concurrency"]
    assert after == text + (
        '\nengine = "cli"  # advised by diagnose\nmultipart_chunksize = "16MiB"  # advised by diagnose\n'
    )
    again, staying = settings.with_advice(after, {"multipart_chunksize": "8MiB", "max_concurrency": 1})
    assert again == after.replace("16MiB", "8MiB") and staying == ["max_concurrency"]
    assert settings.with_advice("", {"max_concurrency": 8})[0] == "max_concurrency = 8  # advised by diagnose\n"


@pytest.mark.parametrize("text", ["a = 1\r\nb = 2\r\n", "\ufeffa = 1\n", "a = 1\n[table]\nx = 1\n", "a = [\n 1,\n]\n"])
def test_advice_keeps_the_manner_of_the_file(text: str) -> None:
    after, _ = settings.with_advice(text, {"engine": "cli"})
    assert tomllib.loads(after.removeprefix("\ufeff"))["engine"] == "cli"
    assert (
        after.replace('engine = "cli"  # advised by diagnose', "").replace("\r\n\r\n", "\r\n").replace("\n\n", "\n")
        == text
    )


def test_advice_that_would_break_the_file_is_refused() -> None:
    with pytest.raises(Refused, match="yourself"):
        settings.with_advice('a = """\n[x\n"""\n', {"engine": "cli"})


def test_the_file_in_use(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "MIGRATE_V2_CONFIG": "named.toml"}
    assert settings.file_in_use("flag.toml", environ, tmp_path) == tmp_path / "flag.toml"
    assert settings.file_in_use(None, environ, tmp_path) == tmp_path / "named.toml"
    del environ["MIGRATE_V2_CONFIG"]
    assert settings.file_in_use(None, environ, tmp_path) == tmp_path / "migrate-v2.toml"
    (tmp_path / ".config/migrate-v2").mkdir(parents=True)
    (tmp_path / ".config/migrate-v2/config.toml").touch()
    assert settings.file_in_use(None, environ, tmp_path) == tmp_path / ".config/migrate-v2/config.toml"


# whose the file is


@pytest.mark.parametrize("setting", ["notify_command", "aws_path"])
def test_load_program_setting_in_working_folder_file_is_refused(here: Path, setting: str) -> None:
    (here / "migrate-v2.toml").write_text(f'{setting} = "/bin/true"\n')
    with pytest.raises(Refused):
        load({}, None, {}, here)
    assert getattr(load({}, "migrate-v2.toml", {}, here), setting) is not None, "a file that was named is taken"
    user = here / "user"
    (user / ".config" / "migrate-v2").mkdir(parents=True)
    (here / "migrate-v2.toml").rename(user / ".config" / "migrate-v2" / "config.toml")
    assert getattr(load({}, None, {"HOME": str(user)}, here), setting) is not None
    assert getattr(from_environment(here, **{setting: "/bin/true"}), setting) is not None


def test_load_every_setting_that_starts_a_program_is_marked() -> None:
    assert {setting.name for setting in TABLE if setting.starts_program} == {"notify_command", "aws_path"}


@pytest.mark.parametrize("config", [None, "migrate-v2.toml"])
@pytest.mark.parametrize(("mode", "refused"), [(0o602, True), (0o666, True), (0o644, False), (0o400, False)])
def test_load_file_writable_for_all_is_refused(here: Path, config: str | None, mode: int, refused: bool) -> None:
    file = here / "migrate-v2.toml"
    file.write_text("batch_size = 5\n")
    file.chmod(mode)
    if refused:
        with pytest.raises(Refused, match="chmod"):
            load({}, config, {}, here)
    else:
        assert load({}, config, {}, here).batch_size == 5


def test_load_file_of_another_owner_or_group_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = here / "migrate-v2.toml"
    file.write_text("batch_size = 5\n")
    file.chmod(0o664)
    owner, group = file.stat().st_uid, file.stat().st_gid
    with monkeypatch.context() as patch:
        patch.setattr(ownfiles, "_primary_groups", lambda user: (group,))
        assert load({}, None, {}, here).batch_size == 5
        patch.setattr(ownfiles, "_primary_groups", lambda user: (group + 1,))
        with pytest.raises(Refused, match="chmod g-w"):
            load({}, None, {}, here)
    file.chmod(0o644)
    if owner == 0:
        os.chown(file, 12345, group)
    else:
        monkeypatch.setattr(ownfiles.os, "geteuid", lambda: owner + 1)
    with pytest.raises(Refused, match="chown"):
        load({}, None, {}, here)


def test_load_named_file_that_is_no_plain_file_is_read(here: Path) -> None:
    assert load({}, "/dev/null", {}, here).batch_size == 1000


def test_load_file_among_objects_is_refused(here: Path) -> None:
    """By the marker of the destination, or by its name in a flag, the environment or the user's own settings."""
    user = here / "user"
    objects = here / "home" / "photos"
    objects.mkdir(parents=True)
    (objects / "migrate-v2.toml").write_text("batch_size = 5\n")
    (user / ".config" / "migrate-v2").mkdir(parents=True)
    assert load({}, None, {}, objects).batch_size == 5, "nothing tells that this is a bucket's folder"
    base = str(here / "home")
    for flags, environ in (
        ({"local_base_path": base}, {}),
        ({}, {"MIGRATE_V2_LOCAL_BASE_PATH": base}),
        ({}, {"HOME": str(user)}),
    ):
        (user / ".config" / "migrate-v2" / "config.toml").write_text(f"local_base_path = {json.dumps(base)}\n")
        for config, cwd in ((None, objects), ("photos/migrate-v2.toml", here / "home")):
            with pytest.raises(Refused):
                load(flags, config, environ, cwd)
    (here / "home" / ".migrate-v2").mkdir()
    with pytest.raises(Refused):
        load({}, None, {}, objects)


def test_load_file_below_the_destination_that_it_names_is_refused(here: Path) -> None:
    (here / "work").mkdir()
    (here / "work" / "migrate-v2.toml").write_text('local_base_path = ".."\n')
    with pytest.raises(Refused):
        load({}, None, {}, here / "work")
