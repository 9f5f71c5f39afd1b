"""Chromium without a window, driven by Selenium, and the page of examples/live in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from servers.processes import wait_for
from support.patience import LIMIT
from support.sessions import Session

WIDE = (1180, 830)
"""Width and height of the window, in pixels."""

_ROWS = """
return [...document.querySelectorAll("#rows tr")].map((line) => [
    Number(line.dataset.id),
    Number(line.dataset.version),
    ...[...line.cells].slice(1).map((cell) => cell.textContent),
])
"""
_MARKS = """
window.marks = [];
new MutationObserver((changes) => {
    for (const { target } of changes) {
        const line = target.closest("tr");
        if (line && /new|changed/.test(target.className))
            window.marks.push(
                [line.dataset.id, line.dataset.version, target.dataset.column ?? "all"].join(" "));
    }
}).observe(document.getElementById("rows"), { subtree: true, attributeFilter: ["class"] });
"""


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser. Skips the test where there is none."""
    program = shutil.which("chromium")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium and its driver: servers/prepare.sh installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        # It would need rights that root in a container has not; nothing but our own page is shown.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars",
        "--lang=en-US",
        "--force-color-profile=srgb",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


class Page:
    """The page in a browser, and the database that it follows."""

    def __init__(self, browser: webdriver.Chrome, address: str, session: Session) -> None:
        self.browser = browser
        self.session = session
        self.address = address

    def open(self, *, width: int = WIDE[0], height: int = WIDE[1]) -> None:
        """Show it from the beginning, in a window of this size."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        # What it has said of others' pages is not of this one.
        self.said()
        self.browser.get(self.address)
        self.browser.execute_script(_MARKS)

    def command(self, name: str, **values: object) -> None:
        """Have the browser do what only its developers' protocol can say."""
        self.browser.execute_cdp_cmd(name, values)

    def run(self, script: str, *values: object) -> Any:
        """Run a script in it and return what it returns."""
        return self.browser.execute_script(script, *values)

    def element(self, name: str) -> WebElement:
        """The element of this name."""
        return self.browser.find_element(By.ID, name)

    def text(self, name: str) -> str:
        """What stands in the element of this name."""
        found: str = self.run("return document.getElementById(arguments[0]).textContent", name)
        return found

    @property
    def state(self) -> str:
        """How its connection is."""
        found: str = self.run("return document.body.dataset.state")
        return found

    def wait_for(self, state: str) -> None:
        """Wait until its connection is so."""
        try:
            wait_for(lambda: self.state == state, LIMIT, f"the page to be {state}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.state}; {self.said()}") from None

    def wait_for_snapshot(self, number: int) -> None:
        """Wait until it shows its snapshot of this number."""
        wait_for(lambda: self.text("snapshots") == str(number), LIMIT, f"snapshot {number}")
        self.wait_for("live")

    def rows(self) -> list[list[Any]]:
        """What its table shows, with the versions behind it."""
        found: list[list[Any]] = self.run(_ROWS)
        return found

    def expected(self) -> list[list[Any]]:
        """What it should show."""
        rows = self.session.run(
            "SELECT id, version, customer, item, amount, status FROM orders ORDER BY id DESC"
        )
        return [[*row[:4], f"{row[4]:,.2f}", row[5]] for row in rows]

    def wait_until_equal(self) -> None:
        """Wait until it shows what is in the database."""
        try:
            wait_for(lambda: self.rows() == self.expected(), LIMIT, "the page to be as the table")
        except TimeoutError as error:
            found = f"{self.state}, {self.rows()}, {self.expected()}, {self.said()}"
            raise TimeoutError(f"{error}: {found}") from None

    def marks(self) -> list[str]:
        """Which changes it has marked since it was opened: row, version, column."""
        found: list[str] = self.run("return window.marks")
        return found

    def said(self) -> list[str]:
        """What the browser has to say of the page, as violations of its policy."""
        return [entry["message"] for entry in self.browser.get_log("browser")]  # type: ignore[no-untyped-call]
