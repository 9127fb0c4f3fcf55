"""What holds for every command: exit codes, streams, errors, colour, signals, questions."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from mlplatform.cli.errors import EXIT_CODES, fault_of, outranking
from mlplatform.core import errors
from tests.cli.conftest import CLEAN, SAMPLE, OnTerminal, Run
from tests.cli.sample import SECRET

ESCAPE = "\x1b["

EXIT = {
    "MlplatformError": 1,
    "UsageError": 2,
    "TopologyError": 2,
    "CheckFailed": 3,
    "DigestMismatch": 3,
    "IntegrityError": 3,
    "VersionConflict": 3,
    "SourceChanged": 3,
    "StoreError": 1,
    "NotFound": 1,
    "ContainerMissing": 2,
    "ConditionFailed": 7,
    "Denied": 4,
    "StoreFull": 1,
    "Unsupported": 2,
    "Throttled": 1,
    "Unavailable": 1,
    "StalePlan": 7,
    "LeaseHeld": 7,
    "Fenced": 7,
    "Unreadable": 5,
    "NoMajority": 5,
    "DeadlineExceeded": 6,
    "Interrupted": 130,
}


class TestExitCodes:
    def test_the_matrix_is_whole(self) -> None:
        classes = {
            name: cls.exit_code
            for name, cls in inspect.getmembers(errors, inspect.isclass)
            if issubclass(cls, errors.MlplatformError)
        }
        assert classes == EXIT
        assert set(classes.values()) <= set(EXIT_CODES)

    @pytest.mark.parametrize(
        ("kind", "code"),
        [
            ("UsageError", 2),
            ("DigestMismatch", 3),
            ("Denied", 4),
            ("NoMajority", 5),
            ("DeadlineExceeded", 6),
            ("LeaseHeld", 7),
            ("Interrupted", 130),
            ("KeyboardInterrupt", 130),
            ("OSError", 2),
            ("AnythingElse", 1),
        ],
    )
    def test_a_process_ends_with_its_errors_code(self, sample: Run, kind: str, code: int) -> None:
        ran = sample("fail", kind)
        assert ran.returncode == code
        assert ran.stdout == ""
        assert ran.stderr.startswith("error: ")
        assert "Traceback" not in ran.stderr

    def test_the_commands_own_code(self, sample: Run) -> None:
        assert sample("rows", "--code", "8").returncode == 8

    @pytest.mark.parametrize(
        ("codes", "code"),
        [
            ([], 0),
            ([0, 0], 0),
            ([0, 5], 5),
            ([5, 3], 3),
            ([3, 8], 8),
            ([5, 4, 3], 4),
            ([8, 1], 1),
            ([130, 1], 130),
        ],
    )
    def test_what_is_wrong_outranks_what_could_not_be_read(
        self, codes: list[int], code: int
    ) -> None:
        assert outranking(codes) == code

    def test_every_code_has_a_rank(self) -> None:
        assert sorted(outranking([code]) for code in EXIT_CODES) == sorted(EXIT_CODES)


class TestErrors:
    def test_object_cause_and_one_hint(self, sample: Run) -> None:
        ran = sample("fail", "Denied", "--message", "Access Denied (s3:PutObject)")
        assert ran.stderr.splitlines() == [
            "error: s3://b/models/m: Access Denied (s3:PutObject)",
            "hint: look there",
        ]

    @pytest.mark.parametrize("output", ["json", "ndjson"])
    def test_for_programs(self, sample: Run, output: str) -> None:
        ran = sample("fail", "Unavailable", "--region", "eu-west-1", "--output", output)
        assert json.loads(ran.stderr) == {
            "schema_version": 1,
            "code": "Unavailable",
            "message": "s3://b/models/m: it went wrong",
            "hint": "look there",
            "region": "eu-west-1",
            "object": "s3://b/models/m",
            "retryable": True,
            "exit_code": 1,
        }

    def test_a_bug_says_that_it_is_one(self, sample: Run) -> None:
        ran = sample("fail", "Bug")
        assert ran.stderr.splitlines()[-1].startswith("hint: this is a bug; --debug shows")

    def test_a_traceback_only_when_asked_for_and_without_secrets(self, sample: Run) -> None:
        ran = sample("fail", "Bug", "--debug")
        assert "Traceback (most recent call last):" in ran.stderr
        assert SECRET not in ran.stderr

    @pytest.mark.parametrize("flags", [(), ("-o", "json"), ("--log-format", "json"), ("--debug",)])
    def test_secrets_never_print(self, sample: Run, flags: tuple[str, ...]) -> None:
        ran = sample("fail", "Secret", *flags)
        assert "[redacted]" in ran.stderr
        assert SECRET not in ran.stderr

    def test_the_environments_secrets_never_print(self, sample: Run) -> None:
        ran = sample("fail", "Denied", "--message", f"bad key {SECRET}", env={"X_TOKEN": SECRET})
        assert ran.stderr.startswith("error: s3://b/models/m: bad key [redacted]")

    def test_lines_of_one_error_stay_together(self, sample: Run) -> None:
        ran = sample("fail", "UsageError", "--message", "one\nerror: two")
        assert ran.stderr.splitlines() == ["error: one", "  error: two", "hint: look there"]
        ran = sample("fail", "TopologyError", "--message", "t.yaml:1: a\nt.yaml:2: b")
        assert ran.stderr.splitlines()[:2] == ["error: t.yaml:1: a", "error: t.yaml:2: b"]

    def test_files_are_named(self) -> None:
        fault = fault_of(PermissionError(13, "Permission denied", "/srv/x"))
        assert (fault.message, fault.exit_code) == ("/srv/x: Permission denied", 4)

    def test_as_log_lines(self, sample: Run) -> None:
        ran = sample("fail", "Denied", "--log-format", "json")
        told = json.loads(ran.stderr)
        assert told["level"] == "error"
        assert told["code"] == "Denied"


class TestUsage:
    def test_an_unknown_option(self, sample: Run) -> None:
        ran = sample("rows", "--cuont", "3")
        assert ran.returncode == 2
        assert ran.stdout == ""
        first, second = ran.stderr.splitlines()
        assert first.startswith("error: No such option: --cuont")
        assert second == "hint: sample rows --help"

    def test_for_programs(self, sample: Run) -> None:
        ran = sample("rows", "--count", "many", "--output=json")
        told = json.loads(ran.stderr)
        assert (ran.returncode, told["code"], told["exit_code"]) == (2, "UsageError", 2)

    def test_options_come_after_the_command(self, sample: Run) -> None:
        ran = sample("--output", "json", "rows")
        assert ran.returncode == 2
        assert "options come after the command" in ran.stderr

    def test_names_with_commas_and_repeated(self, sample: Run) -> None:
        ran = sample("names", "--region", "a,b", "--region", "b, c", "-o", "json")
        assert [row["name"] for row in json.loads(ran.stdout)["names"]] == ["a", "b", "c"]


class TestOutput:
    def test_data_is_all_there_is_on_stdout(self, sample: Run) -> None:
        ran = sample("speak", "-o", "json", "-vvv", "--debug")
        assert json.loads(ran.stdout) == {"schema_version": 1, "rows": [{"a": 1}]}
        assert "said" in ran.stderr
        assert "sdk chatter" in ran.stderr
        assert SECRET not in ran.stderr

    def test_a_plain_table(self, sample: Run) -> None:
        ran = sample("rows")
        assert ran.stdout == (
            "REGION     SIZE  NOTE\nr0          0 B  all well\nr1      1.0 MiB  all well\n"
            "r2      2.0 MiB  all well\n"
        )
        assert ran.stderr == ""

    def test_ndjson(self, sample: Run) -> None:
        first, *_, last = sample("rows", "-o", "ndjson").stdout.splitlines()
        assert json.loads(first) == {
            "schema_version": 1,
            "region": "r0",
            "size_bytes": 0,
            "note": "all well",
        }
        assert json.loads(last) == {"schema_version": 1, "summary": {"unreadable": {}}}

    def test_verbosity(self, sample: Run) -> None:
        said = [sample("speak", *flags).stderr for flags in ((), ("-v",), ("-vv",), ("-vvv",))]
        for text, least in (("fine", 1), ("finest", 2), ("sdk chatter", 3)):
            assert [f": {text}\n" in each for each in said] == [n >= least for n in range(4)]
        assert "warning: Authorization: [redacted]" in said[0]
        assert "warning: doubtful" in said[0]
        assert "error: caught" in said[0]

    def test_logs_for_programs(self, sample: Run) -> None:
        ran = sample("speak", "-v", "--log-format", "json")
        lines = [json.loads(line) for line in ran.stderr.splitlines()]
        assert all({"timestamp", "level", "message"} <= set(line) for line in lines)
        by_text = {line["message"]: line for line in lines}
        assert by_text["said"]["level"] == "info"
        fine = by_text["fine"]
        assert (fine["level"], fine["region"], fine["latency_ms"]) == ("info", "eu-west-1", 3)
        assert fine["logger"] == "mlplatform.sample"
        assert "ValueError: password=[redacted]" in by_text["caught"]["exception"]
        (done,) = (text for text in by_text if text.startswith("eu-west-1: stored and verified; "))
        assert by_text[done]["bytes"] == 10

    def test_control_characters_are_shown_not_obeyed(self, sample: Run) -> None:
        ran = sample("odd")
        assert ran.stdout == "KEY\na\\x1b[31mb\n"
        assert ran.stderr == "key \\x1b[2J\\x07 and \\x202e back\n"

    def test_any_character_can_be_written_anywhere(self, sample: Run) -> None:
        ran = sample("fail", "UsageError", "--message", "é", env={"PYTHONIOENCODING": "ascii"})
        assert ran.stderr.startswith("error: \\xe9")


class TestColour:
    @pytest.mark.parametrize(
        ("env", "flags", "coloured"),
        [
            ({}, (), True),
            ({"NO_COLOR": "1"}, (), False),
            ({"NO_COLOR": ""}, (), True),
            ({"TERM": "dumb"}, (), False),
            ({}, ("--no-color",), False),
            ({"NO_COLOR": "1", "FORCE_COLOR": "1", "GITHUB_ACTIONS": "true"}, (), False),
            ({"FORCE_COLOR": "1", "TERM": "dumb"}, (), True),
        ],
    )
    def test_on_a_terminal(
        self, on_terminal: OnTerminal, env: dict[str, str], flags: tuple[str, ...], coloured: bool
    ) -> None:
        terminal = on_terminal("rows", *flags, env=env)
        assert terminal.end() == 0
        assert (ESCAPE in terminal.shown) == coloured
        assert "all well" in terminal.shown

    @pytest.mark.parametrize(
        ("env", "coloured"),
        [
            ({}, False),
            ({"FORCE_COLOR": "1"}, True),
            ({"FORCE_COLOR": "0"}, False),
            ({"TTY_COMPATIBLE": "1"}, True),
            ({"GITHUB_ACTIONS": "true"}, False),
            ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ],
    )
    def test_off_a_terminal(self, sample: Run, env: dict[str, str], coloured: bool) -> None:
        ran = sample("rows", env=env)
        assert (ESCAPE in ran.stdout) == coloured

    def test_the_text_is_the_same_with_and_without(self, sample: Run) -> None:
        plain = sample("rows").stdout.split()
        coloured = sample("rows", env={"FORCE_COLOR": "1"}).stdout
        for code in ("\x1b[1m", "\x1b[0m"):
            coloured = coloured.replace(code, "")
        assert coloured.split() == plain

    def test_json_has_none(self, on_terminal: OnTerminal) -> None:
        terminal = on_terminal("rows", "-o", "json")
        assert terminal.end() == 0
        assert ESCAPE not in terminal.shown


class TestStreams:
    def test_a_reader_who_has_gone_is_no_error(self, tmp_path: Path) -> None:
        line = f"{' '.join(SAMPLE)} rows --count 20000 --code 3 | head -1; echo ${{PIPESTATUS[0]}}"
        ran = subprocess.run(
            ["bash", "-c", line],
            env=CLEAN,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.stdout.splitlines()[1] == "3"
        assert ran.stderr == ""

    @pytest.mark.parametrize("arguments", [("--help",), ("rows", "--help"), ("rows",)])
    def test_no_reader_at_all(self, sample: Run, arguments: tuple[str, ...]) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        ran = sample(*arguments, stdout=writer)
        os.close(writer)
        assert (ran.returncode, ran.stderr) == (0, "")

    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
    @pytest.mark.parametrize(
        ("arguments", "code"), [("rows", 0), ("fail UsageError", 2), ("--help", 0)]
    )
    def test_streams_that_are_not_there(
        self, tmp_path: Path, closed: str, arguments: str, code: int
    ) -> None:
        line = f"{' '.join(SAMPLE)} {arguments} {closed}"
        ran = subprocess.run(
            ["bash", "-c", line],
            env=CLEAN,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.returncode == code
        assert "Traceback" not in ran.stderr
        assert "Exception" not in ran.stderr

    @pytest.mark.parametrize("arguments", [("rows",), ("rows", "-o", "json"), ("--help",)])
    def test_no_room_for_the_output(self, sample: Run, arguments: tuple[str, ...]) -> None:
        with open("/dev/full", "w") as full:
            ran = sample(*arguments, stdout=full)
        assert ran.returncode == 1
        assert "stdout: No space left on device" in ran.stderr
        assert "Traceback" not in ran.stderr

    def test_no_room_for_the_errors(self, sample: Run) -> None:
        with open("/dev/full", "w") as full:
            ran = sample("fail", "Denied", stderr=full)
        assert ran.returncode == 4


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SAMPLE, *arguments],
        env=CLEAN,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_once_stops_and_reports(self, tmp_path: Path, number: int) -> None:
        process = start("work", cwd=tmp_path)
        assert process.stderr is not None
        assert process.stderr.readline() == "working\n"
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130
        assert told.splitlines() == [
            "stopping: finishing what is under way; once more to leave at once",
            "error: m@v1: stopped; what was sent is kept",
            "hint: run again",
        ]

    def test_twice_leaves_at_once(self, tmp_path: Path) -> None:
        process = start("work", "--deaf", cwd=tmp_path)
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline().startswith("stopping: ")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)  # its work would take two minutes
        assert (process.returncode, told) == (130, "interrupted twice: leaving at once\n")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_outside_work_it_ends_the_command(self, tmp_path: Path, number: int) -> None:
        process = start("wait", cwd=tmp_path)
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        assert (process.returncode, told) == (130, "error: interrupted\n")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--within"], "error: m@v1: stopped; what was sent is kept\n"),
            ([], "error: interrupted\n"),
        ],
        ids=["within work", "outside"],
    )
    def test_one_that_another_thread_gets_is_heard_although_the_first_waits_for_it(
        self, tmp_path: Path, options: list[str], said: str, number: int
    ) -> None:
        process = start("crew", str(int(number)), *options, cwd=tmp_path)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130
        assert told.endswith(said)

    def test_on_a_terminal_the_cursor_comes_back(self, on_terminal: OnTerminal) -> None:
        terminal = on_terminal("work", "--deaf")
        terminal.until("eu-west-1")
        os.kill(terminal.process.pid, signal.SIGINT)
        terminal.until("stopping: ")
        os.kill(terminal.process.pid, signal.SIGINT)
        assert terminal.end() == 130
        assert "\x1b[?25h" in terminal.shown


class TestConfirming:
    @pytest.mark.parametrize("flags", [("--yes",), ("-y",), ("--confirm", "eu"), ("--confirm=eu",)])
    def test_by_flag(self, sample: Run, flags: tuple[str, ...]) -> None:
        ran = sample("delete", "eu", *flags)
        assert (ran.returncode, ran.stderr) == (0, "deleted\n")

    def test_nobody_to_ask(self, sample: Run) -> None:
        ran = sample("delete", "eu")
        assert ran.returncode == 2
        assert "deleted" not in ran.stderr
        assert "hint: add --confirm eu (or --yes)" in ran.stderr

    def test_the_wrong_region(self, sample: Run) -> None:
        ran = sample("delete", "eu", "--confirm", "us", "--yes")
        assert ran.returncode == 2
        assert "--confirm names us" in ran.stderr

    def test_typed(self, on_terminal: OnTerminal) -> None:
        terminal = on_terminal("delete", "eu")
        terminal.until("Type eu to go on:")
        terminal.type("eu\n")
        assert terminal.end() == 0
        assert "this deletes everything in eu" in terminal.shown
        assert "deleted" in terminal.shown.splitlines()[-1]

    @pytest.mark.parametrize("typed", ["y\n", "\n", "us\n", "\x04"])
    def test_typed_otherwise(self, on_terminal: OnTerminal, typed: str) -> None:
        terminal = on_terminal("delete", "eu")
        terminal.until("Type eu to go on:")
        terminal.type(typed)
        assert terminal.end() == 2
        assert "not confirmed; nothing was done" in terminal.shown

    def test_interrupted(self, on_terminal: OnTerminal) -> None:
        terminal = on_terminal("delete", "eu")
        terminal.until("Type eu to go on:")
        os.kill(terminal.process.pid, signal.SIGINT)
        assert terminal.end() == 130

    @pytest.mark.parametrize(
        ("flags", "env"),
        [
            (("--no-input",), {}),
            ((), {"MLPLATFORM_NO_INPUT": "1"}),
        ],
    )
    def test_never_asked(
        self, on_terminal: OnTerminal, flags: tuple[str, ...], env: dict[str, str]
    ) -> None:
        terminal = on_terminal("delete", "eu", *flags, env=env)
        assert terminal.end() == 2
        assert "Type eu" not in terminal.shown

    def test_the_question_is_not_data(self, on_terminal: OnTerminal) -> None:
        terminal = on_terminal("delete", "eu", pipe_stdout=True)
        terminal.until("Type eu to go on:")
        terminal.type("eu\n")
        assert terminal.end() == 0
        assert terminal.out == ""
