"""SQLAlchemy over the dialect ha://: a small model, transactions, reflection, lost nodes."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator

import pytest
from sqlalchemy import (
    Engine,
    ForeignKey,
    Numeric,
    String,
    create_engine,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from ha.dbapi.sqlalchemy import HaDialect
from tests.support.grpc_server import Served, serving


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    since: Mapped[datetime.datetime]
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Order(Base):
    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    price: Mapped[decimal.Decimal] = mapped_column(Numeric(10, 2))
    data: Mapped[bytes | None]
    paid: Mapped[bool] = mapped_column(default=False)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    customer: Mapped[Customer] = relationship(back_populates="orders")


SINCE = datetime.datetime(2024, 2, 29, 12, 30, 1, 250_000)


@pytest.fixture
def node() -> Iterator[Served]:
    with serving() as node:
        yield node


@pytest.fixture
def engine(node: Served) -> Iterator[Engine]:
    engine = create_engine(f"ha://{node.target}/ha.db")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_a_small_model(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(
            Customer(
                name="Ada",
                since=SINCE,
                orders=[
                    Order(item="tea", price=decimal.Decimal("2.50"), data=b"\x00\xff"),
                    Order(item="milk", price=decimal.Decimal("1.25"), paid=True),
                ],
            )
        )
        session.commit()
    with Session(engine) as session:
        ada = session.scalars(select(Customer).where(Customer.name == "Ada")).one()
        assert ada.since == SINCE
        assert [(o.item, o.price, o.data, o.paid) for o in ada.orders] == [
            ("tea", decimal.Decimal("2.50"), b"\x00\xff", False),
            ("milk", decimal.Decimal("1.25"), None, True),
        ]
        total = session.scalar(select(func.sum(Order.price)).join(Customer))
        assert total == decimal.Decimal("3.75")
        ada.orders[0].item = "coffee"
        session.delete(ada.orders[1])
        session.commit()
        assert session.scalars(select(Order.item)).all() == ["coffee"]


def test_many_rows_in_few_statements_get_their_keys(engine: Engine) -> None:
    with Session(engine) as session:
        customers = [Customer(name=f"c{n}", since=SINCE) for n in range(500)]
        session.add_all(customers)
        session.flush()
        assert sorted(c.id for c in customers) == list(range(1, 501))
        session.commit()
        assert session.scalar(select(func.count()).select_from(Customer)) == 500


def test_rollback_and_savepoints(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Customer(name="kept", since=SINCE))
        session.flush()
        savepoint = session.begin_nested()
        session.add(Customer(name="kept", since=SINCE))
        with pytest.raises(IntegrityError):
            session.flush()
        savepoint.rollback()
        session.commit()
        session.add(Customer(name="gone", since=SINCE))
        session.flush()
        session.rollback()
        assert session.scalars(select(Customer.name)).all() == ["kept"]


def test_autocommit_is_an_isolation_level(engine: Engine) -> None:
    assert engine.dialect.name == "sqlite"
    with engine.connect() as connection:
        assert connection.get_isolation_level() == "SERIALIZABLE"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("INSERT INTO customer(name, since) VALUES ('now', '2024-01-01')"))
        with engine.connect() as other:
            assert other.scalar(text("SELECT count(*) FROM customer")) == 1
    with engine.connect() as connection:
        assert connection.get_isolation_level() == "SERIALIZABLE"


def test_reflection(engine: Engine) -> None:
    found = inspect(engine)
    assert set(found.get_table_names()) == {"customer", "order"}
    assert [c["name"] for c in found.get_columns("customer")] == ["id", "name", "since"]
    assert found.get_foreign_keys("order")[0]["referred_table"] == "customer"
    assert found.get_unique_constraints("customer")[0]["column_names"] == ["name"]


def test_the_pool_gives_up_connections_whose_node_is_gone(node: Served) -> None:
    with serving(node="n2") as two:
        engine = create_engine(f"ha://{node.target}/ha.db?address={two.target}")
        with engine.connect() as connection:
            connection.execute(text("CREATE TABLE t(x)"))
            at = connection.connection.dbapi_connection.address  # type: ignore[union-attr]
            (node if str(at) == node.target else two).kill()
            with pytest.raises(DBAPIError) as info:
                connection.execute(text("INSERT INTO t VALUES (1)"))
            assert info.value.connection_invalidated
            connection.rollback()
            assert connection.scalar(text("SELECT 1")) == 1
        engine.dispose()


@pytest.mark.parametrize(
    ("url", "dsn"),
    [
        ("ha://h/shop.db", "ha://h:8080/shop.db"),
        ("ha://tok%2Fen@h:1/a", "ha://tok%2Fen@h:1/a"),
        ("ha://[::1]:1/a?tls=true", "ha://[::1]:1/a?tls=true"),
        (
            "ha://h/a?address=i:2&address=j:3&token=x%26y",
            "ha://h:8080/a?address=i%3A2&address=j%3A3&token=x%26y",
        ),
    ],
)
def test_urls(url: str, dsn: str) -> None:
    from sqlalchemy import make_url

    assert HaDialect().create_connect_args(make_url(url)) == ([dsn], {})
