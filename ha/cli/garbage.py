"""How often Python looks for cycles of garbage while a node runs."""

from __future__ import annotations

import gc


def collect_seldom() -> None:
    """Leave alone what is loaded, and look for cycles of new objects less often.

    A node makes many objects that live until an answer is sent, and hardly any cycles: looking for
    these as often as Python does by default takes a third of a long list of inserts.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
