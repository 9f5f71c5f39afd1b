"""How the page looks: small screens, dark mode, keyboard, colours; and its picture."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from demo.live import change
from servers.processes import wait_for
from support.browser import Page
from support.patience import LIMIT

PROJECT = Path(__file__).parents[2]
PICTURE = "live-page.png"

# The contrast of WCAG 2.2, of each text against the first ground behind it that is not transparent.
_CONTRASTS = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b]
    .map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (node) => {
    for (; node; node = node.parentElement) {
        const colour = parse(getComputedStyle(node).backgroundColor);
        if (colour.length < 4 || colour[3] > 0.99) return colour;
    }
};
const found = [];
for (const node of document.querySelectorAll("body *")) {
    const has = [...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim());
    if (!has || !node.checkVisibility() || node.closest("datalist, .changed, .new")) continue;
    if (node.disabled) continue;
    const own = parse(getComputedStyle(node).color);
    const [a, b] = [light(own), light(ground(node))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), node.textContent.trim().slice(0, 40)]);
}
return found;
"""

_WIDE = """
return [...document.querySelectorAll("body *")]
    .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth)
    .map((node) => [node.tagName, node.className, node.id].join(" "));
"""


def fill(page: Page, orders: int = 12) -> None:
    """Some orders, the same each time."""
    chance = random.Random(5)
    while page.session.value("SELECT count(*) FROM orders") < orders:
        change(page.session, chance)


def emulate(page: Page, **features: str) -> None:
    """What the reader prefers."""
    given = [{"name": f"prefers-{k.replace('_', '-')}", "value": v} for k, v in features.items()]
    page.command("Emulation.setEmulatedMedia", features=given)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(page: Page, scheme: str) -> None:
    fill(page)
    emulate(page, color_scheme=scheme)
    page.open()
    page.wait_for("live")
    page.wait_until_equal()
    contrasts = page.run(_CONTRASTS)
    assert len(contrasts) > 50
    assert [found for found in contrasts if found[0] < 4.5] == []
    dark = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(16, 21, 28)") is (scheme == "dark")
    emulate(page)


@pytest.mark.parametrize("width", [320, 390, 768, 1180])
def test_no_screen_is_too_small(page: Page, width: int) -> None:
    fill(page)
    page.open(width=width, height=800)
    page.wait_for("live")
    page.wait_until_equal()
    assert page.run("return document.documentElement.scrollWidth") <= width, page.run(_WIDE)
    for name in ("rows", "ask", "state"):
        assert page.element(name).is_displayed()


def test_the_keyboard_reaches_everything_and_shows_where_it_is(page: Page) -> None:
    page.open()
    page.wait_for("live")
    reached = []
    for _ in range(3):
        page.browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(
            page.run("return document.activeElement.className || document.activeElement.id")
        )
        assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert sorted(reached) == ["customer", "scroll", "send"]


def test_the_state_is_told_by_words_as_well(page: Page) -> None:
    page.open()
    page.wait_for("live")
    assert page.text("state-text") == "Live"
    status = page.element("state")
    assert status.get_attribute("role") == "status"
    sign = "return getComputedStyle(document.querySelector('.sign'), '::before').content"
    assert page.run(sign) == '"●"'


def test_who_wants_no_motion_gets_none(page: Page) -> None:
    emulate(page, reduced_motion="reduce")
    page.open()
    page.wait_for("live")
    page.session.run("INSERT INTO orders (customer, item, amount) VALUES ('Ada', 'Tea', 1)")
    page.wait_until_equal()
    cell = page.browser.find_element(By.CSS_SELECTOR, "#rows td")
    assert cell.value_of_css_property("animation-name") == "none"
    emulate(page)


def test_its_picture(page: Page) -> None:
    """The README's is made anew with PG_AMQP_PY_PICTURE=1."""
    emulate(page, color_scheme="light")
    fill(page, 13)
    page.open(height=790)
    page.wait_for("live")
    page.element("customer").send_keys("Ada" + Keys.ENTER)
    wait_for(lambda: "in all" in page.text("answer"), LIMIT, "an answer")
    chance = random.Random(9)
    for _ in range(5):
        change(page.session, chance)
    page.wait_until_equal()
    made = PROJECT / "build" / PICTURE
    made.write_bytes(page.browser.get_screenshot_as_png())
    assert 10_000 < made.stat().st_size < 150_000
    if "PG_AMQP_PY_PICTURE" in os.environ:
        (PROJECT / "docs" / PICTURE).write_bytes(made.read_bytes())
