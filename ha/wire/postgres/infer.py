"""stub"""

from __future__ import annotations

from dataclasses import dataclass

from ha.wire.postgres import oids as t
from ha.wire.postgres.oids import PgType
from ha.wire.postgres.schema import Schema


@dataclass(slots=True)
class Inference:
    parameters: list[PgType]
    columns: list[PgType | None] | None


def infer(sql: str, schema: Schema, declared: list[PgType | None], width: int | None) -> Inference:
    return Inference([d or t.TEXT for d in declared], None)
