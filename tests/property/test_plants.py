"""The simulator finds bugs: each one that is planted, in few runs of the default mix.

``python -m sim --plants`` lists them. The table says by which seed each was found when it was
written; a change of the product may shift that, and then the first of ``WITHIN`` seeds that
finds the plant does. The same seed must pass without it. The long proof, which takes the seeds
in their order: ``python -m sim --plant all``.
"""

from __future__ import annotations

import pytest

from sim.hunt import WITHIN, hunt
from sim.plants import PLANTS, find, planted, read_sources

FOUND_BY: dict[str, tuple[int, ...]] = {
    "own-message-out-of-order": (193,),
    "position-outside-the-transaction": (1, 193),
    "ack-before-commit": (4,),
    "repetition-counts": (5, 27),
    "hole-ignored": (2, 23),
    "stale-index-rows": (3, 193),
    "unquoted-table": (193,),
    "rivals-stay": (193,),
    "update-keeps-rivals": (3, 193),
    "clock-decides": (193,),
    "rowid-not-carried": (193,),
    "missing-row-not-inserted": (2,),
    "blob-as-text": (193,),
    "integers-lose-digits": (193,),
    "sequences-forgotten": (0,),
    "triggers-fire-again": (3,),
    "cascades-run-again": (20, 17),
    "parts-one-by-one": (5,),
    "missing-part-ignored": (11,),
    "txseq-not-waited-for": (9, 2),
    "doubt-is-denied": (9,),
    "void-under-another-id": (4,),
    "process-without-identity": (193,),
    "subscription-off-by-one": (5, 193),
    "outbox-row-early": (5,),
    "suffix-taken-back-forwards": (41, 27),
    "changes-taken-back-forwards": (22,),
    "dead-letter-lost": (4,),
    "dead-letter-passed-by": (4,),
    "snapshot-off-by-one": (6,),
    "snapshot-says-more-than-it-has": (6, 9),
    "forgotten-unnoticed": (26, 60),
    "two-leaders": (78, 99),
    "missing-fence": (120,),
    "ack-before-fencing": (25,),
    "gap-unnoticed": (2,),
    "reader-begins-late": (0,),
    "history-of-one-copy": (56, 88),
    "read-without-asking": (65, 148),
    "refusal-is-success": (193,),
}


@pytest.fixture(scope="module", autouse=True)
def sources() -> None:
    """As they are now: a file may be changed while the tests run."""
    read_sources()


@pytest.mark.parametrize("name", [plant.name for plant in PLANTS])
def test_the_simulator_finds_it(name: str) -> None:
    found = hunt(name, within=WITHIN, first=FOUND_BY.get(name, ()))
    assert found.seed is not None, str(found)
    assert not found.dirty, str(found)


def test_a_plant_changes_what_it_names_and_nothing_stays() -> None:
    from ha.core import fold

    before = fold.Term.fences
    with planted(find("missing-fence")):
        assert fold.Term.fences is not before
    assert fold.Term.fences is before


def test_every_plant_is_in_the_table() -> None:
    assert set(FOUND_BY) == {plant.name for plant in PLANTS}
