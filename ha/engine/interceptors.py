"""Interceptors: a Python file of the user that takes part in the fold.

The file defines one or both of

* ``before_apply(changeset, connection) -> bool | None``: True lets the fold pass over the
  change set. ``changeset.changes`` is a list of :class:`ha.core.changeset.Change` and may be
  changed in place; ``connection`` is the applying :class:`apsw.Connection`, inside of the open
  transaction: it may read, and write to tables of its own.
* ``after_apply(changeset, connection, error) -> None``: ``error`` is None, or why the change
  set could not be applied. Returning counts it as applied; raising ``error`` again keeps it.

Both must be pure functions of their arguments: the same on all nodes, without clock, network
or chance. Any other exception halts the node before the message.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import apsw

from ha.core.errors import Code, HaError
from ha.store.fold import Intercepted


class FileInterceptor:
    """The functions of a file; what it does not define does nothing."""

    def __init__(self, module: ModuleType) -> None:
        self._before = getattr(module, "before_apply", None)
        self._after = getattr(module, "after_apply", None)

    def before_apply(self, changeset: Intercepted, connection: apsw.Connection) -> bool | None:
        return None if self._before is None else bool(self._before(changeset, connection))

    def after_apply(
        self, changeset: Intercepted, connection: apsw.Connection, error: Exception | None
    ) -> None:
        if self._after is not None:
            self._after(changeset, connection, error)
        elif error is not None:
            raise error


def load_interceptor(path: Path) -> FileInterceptor:
    """Run the file once. Raises HaError that says what is wrong with it."""
    if not path.is_file():
        raise HaError(Code.NOT_FOUND, f"no such file: {path}")
    name = f"ha_interceptor_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise HaError(Code.BAD_REQUEST, f"{path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise HaError(
            Code.BAD_REQUEST, f"the interceptor {path} fails: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, "before_apply") and not hasattr(module, "after_apply"):
        raise HaError(
            Code.BAD_REQUEST, f"the interceptor {path} defines neither before_apply nor after_apply"
        )
    return FileInterceptor(module)
