"""Whole clients: SQLAlchemy and Alembic, pg8000, node-postgres, pgjdbc, pgbench."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pg8000.dbapi
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests.support.pg import PgServer, in_asyncio, in_thread, open_pg

CLIENTS = Path(__file__).parent.parent / "clients"


class Base(orm.DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    __table_args__ = (sa.CheckConstraint("length(name) > 0", name="named"),)

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(50), unique=True)
    created: orm.Mapped[dt.datetime] = orm.mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now()
    )
    score: orm.Mapped[Decimal | None] = orm.mapped_column(
        sa.Numeric(10, 2), server_default=sa.text("1.5")
    )
    active: orm.Mapped[bool] = orm.mapped_column(default=True)
    data: orm.Mapped[dict[str, Any] | None] = orm.mapped_column(sa.JSON)
    posts: orm.Mapped[list[Post]] = orm.relationship(back_populates="user")


class Post(Base):
    __tablename__ = "posts"
    __table_args__ = (sa.UniqueConstraint("user_id", "body", name="once"),)

    id: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, primary_key=True)
    user_id: orm.Mapped[int] = orm.mapped_column(
        sa.ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    body: orm.Mapped[str] = orm.mapped_column(sa.Text)
    day: orm.Mapped[dt.date | None]
    user: orm.Mapped[User] = orm.relationship(back_populates="posts")


def use_orm(session: orm.Session) -> None:
    session.add_all([User(name=f"u{i}", data={"i": i}) for i in range(1000)])
    session.commit()
    user = session.scalars(sa.select(User).where(User.name == "u7")).one()
    assert (user.score, user.active, user.data) == (Decimal("1.5"), True, {"i": 7})
    assert user.created.tzinfo is not None
    ids = session.scalars(sa.select(User.id)).all()
    assert sorted(ids) == list(range(1, 1001))
    user.posts.append(Post(body="hello", day=dt.date(2024, 1, 2)))
    session.commit()
    totals = sa.select(sa.func.count(), sa.func.sum(User.id), sa.func.avg(User.score))
    assert session.execute(totals).one() == (1000, 500500, 1.5)
    posts = sa.select(User.name, sa.func.count(Post.id)).join(Post).group_by(User.name)
    assert session.execute(posts).all() == [("u7", 1)]
    found = sa.select(User.name).where(User.name.ilike("U99%"), User.id.in_([991, 992, 100]))
    assert session.scalars(found).all() == ["u99", "u990", "u991"]
    with session.begin_nested() as savepoint:
        session.add(User(name="u7"))
        with pytest.raises(sa.exc.IntegrityError):
            session.flush()
        savepoint.rollback()
    session.execute(sa.update(User).where(User.id == 3).values(score=User.score + 1))
    session.execute(sa.delete(Post))
    session.commit()
    third = session.get(User, 3)
    assert third is not None
    assert third.score == Decimal("2.5")


def use_core(engine: sa.Engine) -> None:
    expressions = sa.select(
        sa.cast(User.id, sa.String),
        sa.literal(5),
        sa.func.coalesce(User.active, sa.false()),
        sa.case((User.id > 5, "big"), else_="small"),
        sa.extract("year", User.created),
        sa.func.lower(User.name) + "!",
    ).where(User.id == 1)
    with engine.begin() as connection:
        row = connection.execute(expressions).one()
        assert tuple(row) == ("1", 5, True, "small", row[4], "u0!")
        streamed = connection.execution_options(yield_per=100).execute(sa.select(User.id))
        assert sum(1 for _ in streamed) == 1000


def reflect(engine: sa.Engine) -> None:
    inspector = sa.inspect(engine)
    assert inspector.get_table_names() == ["posts", "users"]
    columns = {c["name"]: c for c in inspector.get_columns("users")}
    assert repr(columns["name"]["type"]) == "VARCHAR(length=50)"
    assert repr(columns["score"]["type"]) == "NUMERIC(precision=10, scale=2)"
    assert columns["created"]["type"].timezone
    assert not columns["name"]["nullable"]
    assert inspector.get_pk_constraint("users")["constrained_columns"] == ["id"]
    (key,) = inspector.get_foreign_keys("posts")
    assert key["referred_table"] == "users"
    assert key["options"] == {"ondelete": "CASCADE"}
    assert [u["name"] for u in inspector.get_unique_constraints("posts")] == ["once"]
    assert [c["name"] for c in inspector.get_check_constraints("users")] == ["named"]
    assert "ix_posts_user_id" in [i["name"] for i in inspector.get_indexes("posts")]
    assert inspector.has_table("users")
    assert not inspector.has_table("nobody")
    metadata = sa.MetaData()
    metadata.reflect(engine)
    assert set(metadata.tables) == {"users", "posts"}


@pytest.mark.parametrize("driver", ["psycopg", "pg8000"])
async def test_sqlalchemy(driver: str) -> None:
    async with open_pg() as server:

        def work() -> None:
            engine = sa.create_engine(f"postgresql+{driver}://{server.url}")
            Base.metadata.create_all(engine)
            Base.metadata.create_all(engine)  # finds that all is there
            with orm.Session(engine) as session:
                use_orm(session)
            use_core(engine)
            reflect(engine)
            Base.metadata.drop_all(engine)
            assert sa.inspect(engine).get_table_names() == []
            engine.dispose()

        await in_thread(work)


async def test_sqlalchemy_with_asyncpg() -> None:
    async with open_pg() as server:

        async def work() -> None:
            engine = create_async_engine(f"postgresql+asyncpg://{server.url}")
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            async with AsyncSession(engine) as session:
                await session.run_sync(use_orm)
            async with engine.connect() as connection:
                names = await connection.run_sync(lambda c: sa.inspect(c).get_table_names())
                assert names == ["posts", "users"]
            await engine.dispose()

        await in_asyncio(work)


async def test_alembic_creates_and_alters_a_model() -> None:
    async with open_pg() as server:

        def work() -> None:
            engine = sa.create_engine(f"postgresql+psycopg://{server.url}")
            with engine.begin() as connection:
                op = Operations(MigrationContext.configure(connection))
                op.create_table(
                    "account",
                    sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("name", sa.String(50), nullable=False),
                )
                op.add_column("account", sa.Column("created", sa.DateTime))
                op.create_index("ix_account_name", "account", ["name"])
                op.alter_column("account", "name", new_column_name="title")
                op.execute("INSERT INTO account(title) VALUES ('x')")
                op.drop_column("account", "created")
                op.rename_table("account", "accounts")
            inspector = sa.inspect(engine)
            assert [c["name"] for c in inspector.get_columns("accounts")] == ["id", "title"]
            assert inspector.get_indexes("accounts")[0]["column_names"] == ["title"]
            Base.metadata.create_all(engine)
            with engine.connect() as connection:
                context = MigrationContext.configure(connection)
                found = compare_metadata(context, Base.metadata)
                changes = [c for c in found if "account" not in str(c)]
            # A BIGSERIAL key is SQLite's INTEGER: nothing else differs from the model.
            assert [c[0][0] for c in changes] in ([], ["modify_type"]), changes
            engine.dispose()

        await in_thread(work)


async def test_alembic_runs_its_scripts(tmp_path: Path) -> None:
    async with open_pg() as server:
        ini, folder = tmp_path / "alembic.ini", tmp_path / "scripts"

        def work() -> None:
            config = AlembicConfig(str(ini))
            command.init(config, str(folder))
            config = AlembicConfig(str(ini))
            config.set_main_option("sqlalchemy.url", f"postgresql+psycopg://{server.url}")
            script = command.revision(config, message="one")
            path = Path(script.path)  # type: ignore[union-attr]
            column = "sa.Column('id', sa.Integer, primary_key=True)"
            body = f"    op.create_table('made', {column})\n"
            text = path.read_text()
            path.write_text(text.replace('"""Upgrade schema."""\n    pass', body.strip(), 1))
            command.upgrade(config, "head")
            command.upgrade(config, "head")

        await in_thread(work)
        names = [n for (n,) in await server.node.rows("SELECT name FROM sqlite_schema")]
        assert "made" in names
        assert "alembic_version" in names


async def test_pg8000() -> None:
    async with open_pg() as server:

        def work() -> None:
            connection = pg8000.dbapi.connect(
                "ha", host="127.0.0.1", port=server.port, password="ha", database="ha"
            )
            cursor = connection.cursor()
            cursor.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT, at TIMESTAMPTZ)")
            stamp = dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
            cursor.executemany(
                "INSERT INTO t VALUES (%s, %s, %s)", [(i, str(i), stamp) for i in range(10)]
            )
            connection.commit()
            cursor.execute("SELECT * FROM t WHERE id = %s", (3,))
            assert cursor.fetchone() == [3, "3", stamp]
            cursor.execute("DELETE FROM t")
            connection.rollback()
            cursor.execute("SELECT count(*) FROM t")
            assert cursor.fetchone() == [10]
            with pytest.raises(pg8000.dbapi.DatabaseError) as info:
                cursor.execute("SELECT nope FROM t")
            assert info.value.args[0]["C"] == "42703"
            connection.rollback()
            connection.close()

        await in_thread(work)


def run(arguments: list[str], **options: Any) -> Callable[[], subprocess.CompletedProcess[str]]:
    return partial(
        subprocess.run,
        arguments,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


@pytest.mark.skipif(
    not (CLIENTS / "node" / "node_modules" / "pg").exists() or shutil.which("node") is None,
    reason="needs node, and npm ci in tests/clients/node",
)
async def test_node_postgres() -> None:
    async with open_pg() as server:
        result = await in_thread(run(["node", "check.js", str(server.port)], cwd=CLIENTS / "node"))
        assert result.returncode == 0, result.stderr
        assert "all is well" in result.stdout


def jdbc_driver() -> Path | None:
    named = os.environ.get("HA_JDBC_DRIVER", "/usr/share/java/postgresql.jar")
    return Path(named) if Path(named).exists() else None


@pytest.mark.skipif(
    jdbc_driver() is None or shutil.which("javac") is None,
    reason="needs a JDK, and pgjdbc (libpostgresql-jdbc-java, or HA_JDBC_DRIVER)",
)
async def test_pgjdbc(tmp_path: Path) -> None:
    async with open_pg() as server:
        source = str(CLIENTS / "java" / "Check.java")
        result = await in_thread(run(["javac", "-d", str(tmp_path), source]))
        assert result.returncode == 0, result.stderr
        path = f"{jdbc_driver()}{os.pathsep}{tmp_path}"
        url = f"jdbc:postgresql://127.0.0.1:{server.port}/ha"
        result = await in_thread(run(["java", "-cp", path, "Check", url]))
        assert result.returncode == 0, result.stderr
        assert "all is well" in result.stdout


SCRIPT = r"""
\set id random(1, 100)
BEGIN;
UPDATE accounts SET balance = balance + 1 WHERE id = :id;
SELECT balance FROM accounts WHERE id = :id;
END;
"""


async def pgbench(server: PgServer, script: Path, *words: str) -> str:
    command = [
        *("pgbench", "-h", "127.0.0.1", "-p", str(server.port), "-U", "ha", "-n", "-t", "20"),
        *("-f", str(script), *words, "ha"),
    ]
    result = await in_thread(run(command, env={**os.environ, "PGPASSWORD": "ha"}))
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.skipif(shutil.which("pgbench") is None, reason="needs pgbench (postgresql-contrib)")
@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
async def test_pgbench(mode: str, tmp_path: Path) -> None:
    async with open_pg() as server:
        await server.node.run("CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER)")
        await server.node.run(
            "INSERT INTO accounts WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c"
            " WHERE x < 100) SELECT x, 0 FROM c"
        )
        script = tmp_path / "script.sql"
        script.write_text(SCRIPT)
        out = await pgbench(server, script, "-M", mode, "-c", "1")
        assert "number of failed transactions: 0" in out
        assert await server.node.rows("SELECT sum(balance) FROM accounts") == [(20,)]
        lines = SCRIPT.replace("BEGIN;\n", "").replace("END;\n", "")
        script.write_text(lines)
        out = await pgbench(server, script, "-M", mode, "-c", "4")
        assert "number of failed transactions: 0" in out
        assert await server.node.rows("SELECT sum(balance) FROM accounts") == [(100,)]
