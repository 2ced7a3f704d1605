"""All checks of the project: a bare `nox` runs what CI runs.

`nox -s tests -- tests/unit/test_options.py -x` passes arguments on; `nox -R` uses the
environments again as they are; `nox -s bench` measures, and is no part of CI.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "tests", "sim", "jepsen"]
nox.options.reuse_existing_virtualenvs = True

HERE = Path(__file__).parent
WORKERS = "2"  # tests run in parallel and in any order; CI has two cores
RUFF = "ruff>=0.17.6,<0.18"
MYPY = "mypy>=2.4,<3"
XDIST = "pytest-xdist>=3.8,<4"
SEEDS = ["--start", "1", "--seeds", "20", "--fresh", "20", "--jobs", WORKERS]


def install(session: nox.Session, *more: str) -> None:
    """The product as a user gets it, from a wheel, with what its tests need."""
    session.install(".[test]", *more)


def has_tests(folder: str) -> bool:
    return any((HERE / folder).rglob("test_*.py"))


@nox.session
def lint(session: nox.Session) -> None:
    """Style and form of the code."""
    session.install(RUFF)
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over all that pyproject.toml names."""
    install(session, MYPY, "nox", "types-PyYAML>=6,<7")
    session.run("mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Unit tests and hypothesis properties."""
    install(session, XDIST)
    # A folder without tests would make xdist run none at all, without an error.
    folders = [f for f in ("tests/unit", "tests/property") if has_tests(f)]
    chosen = session.posargs or ["-n", WORKERS, *folders]
    # `python -m` puts the checkout on the path: properties run the simulator, which lies beside.
    session.run("python", "-m", "pytest", *chosen)


@nox.session
def sim(session: nox.Session) -> None:
    """The deterministic simulator: seeds that are known to pass, and fresh ones, whose start is
    printed; more: -- --minutes 5."""
    if not (HERE / "sim" / "__main__.py").exists():
        session.skip("the simulator is not written yet")
    install(session)
    session.run("python", "-m", "sim", *(session.posargs or SEEDS))


@nox.session
def jepsen(session: nox.Session) -> None:
    """Real processes under real faults, a short run; longer: -- --minutes 10 --mode leader."""
    if not has_tests("tests/jepsen_like"):
        session.skip("there are no tests with real faults yet")
    install(session)
    if session.posargs and session.posargs[0].startswith("--"):
        session.run("python", "-m", "tests.jepsen_like", *session.posargs)
    else:
        session.run("python", "-m", "pytest", *(session.posargs or ["tests/jepsen_like"]))


@nox.session
def bench(session: nox.Session) -> None:
    """Measure; tables on the terminal, JSON and plots in bench/out."""
    if not (HERE / "bench" / "__main__.py").exists():
        session.skip("there are no benchmarks yet")
    install(session)
    session.run("python", "-m", "bench", *session.posargs)
