"""README's commands are commands that `ha` understands, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ha.cli.operate.commands import _parser as operating_parser
from ha.cli.options import HelpWanted, parse
from ha.config import NOT_BUILT

OPERATE = ("status", "snapshot", "restore", "history", "undo")
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def ha_commands() -> list[str]:
    lines = [line for block in shell_blocks() for line in block.splitlines()]
    return [line for line in lines if line.startswith("ha ")]


def test_the_first_blocks_are_how_to_start_and_how_to_test() -> None:
    assert shell_blocks()[:2] == [
        "pip install . && ha -m --pg-port 5432\n",
        "pip install nox && nox\n",
    ]


@pytest.mark.parametrize("command", ha_commands())
def test_a_command_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command, comments=True)[1:]
    if arguments[0] in OPERATE:
        assert operating_parser().parse_args(arguments).command == arguments[0]
    elif "--help" in arguments:
        with pytest.raises(HelpWanted):
            parse(arguments, {})
    else:
        assert parse(arguments, {}).databases


def test_there_are_commands_to_check() -> None:
    assert len(ha_commands()) >= 6


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_a_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).is_file()


def test_a_link_inside_leads_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


@pytest.mark.parametrize("flag", [flag for flags in NOT_BUILT.values() for flag in flags])
def test_no_flag_is_shown_as_working_that_is_not(flag: str) -> None:
    assert f"--{flag}" not in README
