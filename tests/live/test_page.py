"""The page of examples/live in Chromium: it ends as the table is, whatever happens on the way."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest
from selenium.webdriver.common.keys import Keys

from demo.live import change
from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction
from servers.rabbitmq import RabbitMQ
from servers.relay import DaemonProcess
from support.browser import Page
from support.patience import LIMIT
from support.sessions import Session

CHANGES = 1000
WRITERS = 2
HOSTILE = (
    "<img src=x onerror=\"document.title='hacked'\">",
    "<script>document.title='hacked'</script>",
    "</td><td>more",
    "&lt;b&gt;",
    "__proto__",
    "constructor",
    "\N{RIGHT-TO-LEFT OVERRIDE}evil",
    "a\\b\"c'd\ne",
    "🦑" * 50,
)
INSERT = "INSERT INTO orders (customer, item, amount) VALUES (%s, %s, %s)"


@contextmanager
def many_changes(database: str, total: int) -> Iterator[Callable[[], int]]:
    """So many changes by several sessions; yields how many there were so far."""
    done: list[int] = []
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            with psycopg.connect(database, autocommit=True) as shop:
                for number in range(total // WRITERS):
                    # Of two that wait for each other, one is rolled back.
                    with suppress(psycopg.errors.DeadlockDetected):
                        one(shop, chance)
                    done.append(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: len(done)
    finally:
        for thread in threads:
            thread.join()
    assert failed == []


def one(shop: psycopg.Connection[tuple[object, ...]], chance: random.Random) -> None:
    """One change: what the shop does, or several in a transaction, or one that is rolled back."""
    kind = chance.random()
    if kind < 0.8:
        change(shop, chance)
    elif kind < 0.9:
        with shop.transaction():
            for _ in range(3):
                change(shop, chance)
    else:
        with shop.transaction(force_rollback=True):
            change(shop, chance)


def test_it_shows_the_table_and_each_change(page: Page) -> None:
    page.session.run(INSERT, "Ada", "Tea", 19.9)
    page.open()
    page.wait_for("live")
    page.wait_until_equal()
    page.session.run(INSERT, "Bob", "Kettle", 1234.5)
    page.session.run("UPDATE orders SET status = 'paid' WHERE id = 1")
    page.wait_until_equal()
    # Figures are shown with the next frame.
    wait_for(lambda: page.text("changes") == "2", LIMIT, "two changes to be counted")
    assert page.text("count") == "2"
    assert page.marks() == ["2 2 all", "1 3 status"]
    page.session.run("DELETE FROM orders WHERE id = 1")
    page.session.run("BEGIN; DELETE FROM orders; ROLLBACK")
    page.session.run("UPDATE orders SET id = DEFAULT WHERE id = 2")
    page.wait_until_equal()
    assert [row[0] for row in page.rows()] == [3]
    page.session.run("TRUNCATE orders")
    page.wait_until_equal()
    page.wait_for_snapshot(2)
    assert page.said() == []


@pytest.mark.slow
@pytest.mark.parametrize("trigger", ["publish_change", "publish_change_outbox"])
def test_a_thousand_changes_over_a_restart_of_the_broker(
    page: Page, database: str, rabbitmq: RabbitMQ, trigger: str
) -> None:
    page.session.run(
        f"""CREATE OR REPLACE TRIGGER orders_live AFTER INSERT OR UPDATE OR DELETE ON orders
            FOR EACH ROW EXECUTE FUNCTION amqp.{trigger}('1', 'live.changes', 'orders.{{op}}')"""
    )
    page.open()
    page.wait_for_snapshot(1)
    with many_changes(database, CHANGES) as count:
        wait_for(lambda: count() > CHANGES // 4, LIMIT, "a quarter of the changes")
        rabbitmq.restart()
        page.wait_for("live")
    page.wait_until_equal()
    assert int(page.text("snapshots")) >= 2
    marks = page.marks()
    assert len(marks) == len(set(marks))
    # Nothing more comes: what waited in the outbox is known already, or is shown.
    wait_for(lambda: page.session.run("SELECT FROM amqp.outbox") == [], LIMIT, "an empty outbox")
    page.session.run(INSERT, "the last", "Tea", 1)
    page.wait_until_equal()
    assert len(page.marks()) == len(set(page.marks()))


def _refuse(proxy: CuttingProxy) -> None:
    proxy.refuse()


def _stall(proxy: CuttingProxy) -> None:
    proxy.stall(Direction.BOTH)


@pytest.mark.slow
@pytest.mark.parametrize("lose", [_refuse, _stall])
def test_changes_while_the_network_is_lost(
    page: Page, database: str, web_proxy: CuttingProxy, lose: Callable[[CuttingProxy], None]
) -> None:
    page.open()
    page.wait_for_snapshot(1)
    with many_changes(database, 200) as count:
        wait_for(lambda: count() > 50, LIMIT, "some changes")
        lose(web_proxy)
        page.wait_for("offline")
    assert page.text("state-text").startswith("Offline since ")
    assert page.rows() != page.expected()
    web_proxy.pass_all()
    page.wait_for_snapshot(2)
    page.wait_until_equal()
    assert len(page.marks()) == len(set(page.marks()))


@pytest.mark.slow
def test_connections_that_break_again_and_again(
    page: Page, database: str, web_proxy: CuttingProxy
) -> None:
    chance = random.Random(7)
    page.open()
    with many_changes(database, 400) as count:
        while count() < 400:
            page.wait_for("live")
            web_proxy.cut_after(chance.randrange(1, 60_000), Direction.TO_CLIENT)
            if chance.random() < 0.5:
                # Once all is published, too little may come to cut the connection.
                wait_for(lambda: page.state == "offline" or count() >= 400, LIMIT, "a cut")
    web_proxy.pass_all()
    page.wait_for("live")
    page.wait_until_equal()


def test_it_waits_for_the_daemon(
    page: Page, live_daemon: DaemonProcess, live_session: Session
) -> None:
    live_daemon.terminate()
    live_session.run(INSERT, "Ada", "Tea", 1)
    page.open()
    wait_for(lambda: page.text("state-text") == "Reading the table", LIMIT, "the question")
    live_session.run(INSERT, "Bob", "Tea", 2)
    assert page.rows() == []
    live_daemon.start()
    page.wait_for("live")
    page.wait_until_equal()
    assert page.text("changes") == "0"


def test_texts_of_strangers_are_texts(page: Page) -> None:
    page.session.run(INSERT, HOSTILE[0], HOSTILE[1], 1)
    page.open()
    page.wait_for("live")
    for text in HOSTILE:
        page.session.run(INSERT, text, text, 1)
        page.session.run("UPDATE orders SET status = %s WHERE customer = %s", text, text)
    page.wait_until_equal()
    allowed = "td, tr, span, i"
    assert page.run(f"return document.querySelectorAll('#rows :not({allowed})').length") == 0
    assert page.run("return document.title") == "Orders, live"
    page.element("customer").send_keys(HOSTILE[0] + Keys.ENTER)
    wait_for(lambda: "2 orders, 2.00" in page.text("answer"), LIMIT, "an answer")
    assert page.text("answer").startswith(HOSTILE[0])
    assert page.said() == []


def test_a_question_is_answered(page: Page) -> None:
    for amount in (19.9, 4.5):
        page.session.run(INSERT, "Ada", "Tea", amount)
    page.open()
    page.wait_for("live")

    def answered(text: str) -> None:
        wait_for(lambda: page.text("answer") == text, LIMIT, text)

    # By the keyboard alone.
    page.element("customer").send_keys("Ada", Keys.ENTER)
    answered("Ada: 2 orders, 24.40 in all")
    page.element("customer").clear()
    page.element("customer").send_keys("x", Keys.TAB)
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    answered("x: 0 orders, 0.00 in all")
    assert page.run(
        "return [...document.querySelectorAll('#customers option')].map(o => o.value)"
    ) == ["Ada"]


def test_a_question_on_a_lost_connection_is_told_so(page: Page, web_proxy: CuttingProxy) -> None:
    page.open()
    page.wait_for("live")
    web_proxy.stall(Direction.TO_SERVER)
    page.element("customer").send_keys("Ada" + Keys.ENTER)
    wait_for(lambda: page.text("answer") == "Ada: not connected", LIMIT, "the end of it")
    page.wait_for("offline")
    assert not page.element("send").is_enabled()
