"""docs/how-to/live-page.md: it shows the files of examples/live as they are, and they work."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from selenium import webdriver

from demo.live import EXAMPLE
from servers.nginx import Nginx
from servers.processes import temporary_folder
from servers.rabbitmq import RabbitMQ
from servers.relay import DaemonProcess
from support.browser import Page
from support.examples import blocks, examples, statements
from support.fix_servers import VHost
from support.sessions import Session

PROJECT = Path(__file__).parents[2]
DOCUMENT = (PROJECT / "docs/how-to/live-page.md").read_text()


def test_the_page_shows_what_setup_sql_does() -> None:
    """That script is run by the tests of tests/live."""
    script = re.sub(r"^--.*\n", "", (EXAMPLE / "setup.sql").read_text(), flags=re.M)
    shown = "\n".join(examples(DOCUMENT))
    assert statements(shown) == statements(script)


def test_the_page_shows_the_rights_of_rights_sh() -> None:
    """Those are given in the tests of tests/live, which look for more and find none."""
    run, rights = blocks(DOCUMENT, "sh")
    assert run == 'pg-amqp run --dsn "dbname=shop"\n'
    given = [line for line in (EXAMPLE / "rights.sh").read_text().splitlines() if line[0] != "#"]
    plugins, *shown = rights.splitlines()
    assert plugins == "rabbitmq-plugins enable rabbitmq_web_stomp"
    assert shown == given


def test_the_page_shows_config_json() -> None:
    (shown,) = blocks(DOCUMENT, "json")
    assert json.loads(shown) == json.loads((EXAMPLE / "config.json").read_text())


def test_make_live_is_a_target() -> None:
    (command,) = blocks(DOCUMENT, "console")
    assert command.strip() == "make live"
    assert re.search(r"^demo live .*:\n", (PROJECT / "Makefile").read_text(), re.M)


def test_behind_nginx_with_all_files_as_they_are(
    browser: webdriver.Chrome,
    live_broker: VHost,
    live_session: Session,
    live_daemon: DaemonProcess,
    rabbitmq: RabbitMQ,
) -> None:
    """nginx serves the page and passes on its connection."""
    (configuration,) = blocks(DOCUMENT, "nginx")
    with temporary_folder() as folder:
        shutil.copytree(EXAMPLE, folder / "page")
        configuration = configuration.replace("/srv/shop/examples/live", str(folder / "page"))
        configuration = configuration.replace(":15674", f":{rabbitmq.web_stomp_port}")
        with Nginx(f"include /etc/nginx/mime.types;\n{configuration}") as nginx:
            assert isinstance(nginx, Nginx)
            config = json.loads((EXAMPLE / "config.json").read_text())
            config["broker"] = f"ws://127.0.0.1:{nginx.port}/ws"
            config["vhost"] = live_broker.vhost
            (folder / "page" / "config.json").write_text(json.dumps(config))
            page = Page(browser, f"http://127.0.0.1:{nginx.port}/", live_session)
            live_session.run("INSERT INTO orders (customer, item, amount) VALUES ('Ada', 'Tea', 1)")
            page.open()
            page.wait_for("live")
            page.wait_until_equal()
            assert page.said() == []
            browser.get("about:blank")
