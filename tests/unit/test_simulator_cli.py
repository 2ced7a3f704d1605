"""Which seeds the simulator's command runs, and what it says of them."""

from __future__ import annotations

import re

import pytest

from sim import cli
from sim.plan import Plan


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that were run; each fails that is beyond 1000."""
    ran: list[int] = []

    def run(plan: Plan) -> cli.Report:
        ran.append(plan.seed)
        ok = plan.seed < 1000
        return cli.Report(plan.seed, f"seed={plan.seed}", ok, (), 1, 0, 0, 1.0, 1.0, 0)

    monkeypatch.setattr(cli, "_run", run)
    return ran


def test_fresh_seeds_come_after_the_known_ones_and_their_start_is_printed(
    seeds: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_fresh", lambda: 500)
    assert cli.main(["--start", "1", "--seeds", "3", "--fresh", "2", "--shrink", "0"]) == 0
    assert seeds == [1, 2, 3, 500, 501]
    assert "then 2 fresh seeds (--start 500 --seeds 2)" in capsys.readouterr().out


def test_fresh_seeds_are_not_the_same_twice(
    seeds: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    starts = set()
    for _ in range(2):
        cli.main(["--start", "1", "--seeds", "1", "--fresh", "1", "--shrink", "0"])
        starts.add(re.findall(r"--start (\d+) --seeds 1\)", capsys.readouterr().out)[0])
    assert len(starts) == 2
    assert seeds[0] == seeds[2] == 1


def test_a_fresh_seed_that_fails_is_named_with_its_replay(
    seeds: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_fresh", lambda: 1000)
    assert cli.main(["--start", "1", "--seeds", "1", "--fresh", "1", "--shrink", "0"]) == 1
    out = capsys.readouterr().out
    assert "replay: python -m sim --seed 1000 --trace" in out
    assert "FAILED: 1 seeds: 1000" in out


def test_fresh_needs_a_number_of_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--minutes", "1", "--fresh", "2"])
    assert "--fresh" in capsys.readouterr().err
