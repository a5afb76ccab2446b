"""A person at the page: the searches of the paper, the picture, a series, a manifest, keys."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.servers.browser import SCREENSHOTS, TOKENS, Site, axe
from tomodex.demo import QUESTIONS
from tomodex.phantom import Truth

pytestmark = pytest.mark.server

SACRUM = "sacrum complete and women 40-60 and slices <= 1.5 mm"
MUSCLE = "left autochthonous muscle between heart and L1"

WHERE_THE_FOCUS_IS = "document.activeElement.closest('.acts, .hits, .refine')?.className"

#: ms until something must be there, on a machine that does other things too.
SOON = 15_000
expect.set_options(timeout=SOON)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(
        viewport={"width": 1440, "height": 900}, color_scheme="light", accept_downloads=True
    )
    opened.set_default_timeout(SOON)
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext, site: Site) -> Iterator[Page]:
    """The first page; whatever the browser complains of fails the test."""
    opened, complaints = context.new_page(), list[str]()
    opened.on(
        "console", lambda said: complaints.append(said.text) if said.type == "error" else None
    )
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(site.url)
    yield opened
    assert complaints == []


def keep(page: Page, name: str) -> None:
    """Keep a picture for a person to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def ask(page: Page, text: str) -> None:
    box = page.get_by_role("combobox", name="What the series should show")
    box.fill(text)
    box.press("Escape")
    box.press("Enter")
    expect(page).to_have_url(re.compile(r"\?q="))
    expect(page.locator("#counts")).to_be_visible()


def is_whole(truth: Truth, name: str) -> bool:
    """Whether a series that has a segmentation shows all of a structure."""
    structure = truth.structures.get(name)
    return bool(truth.segmentation_uid) and structure is not None and not structure.cut


def found(page: Page) -> set[str]:
    links = page.locator(".hit h3 a")
    return {
        str(links.nth(n).get_attribute("href")).removeprefix("/series/")
        for n in range(links.count())
    }


def count(page: Page) -> int:
    said = page.locator("#counts span", has_text="series").inner_text()
    return int(said.split()[0].replace(",", ""))


@pytest.mark.parametrize(
    ("name", "text", "question"),
    [("sacrum", SACRUM, QUESTIONS[0]), ("muscle", MUSCLE, QUESTIONS[1])],
    ids=["sacrum", "muscle"],
)
def test_the_searches_of_the_paper_find_what_is_known_to_be_there(page, site, name, text, question):
    keep(page, "first-page")
    ask(page, text)
    assert found(page) == site.expected(question) != set()
    assert count(page) == len(found(page))
    keep(page, f"paper-{name}")


def test_somebody_new_finds_both_searches_by_clicking_what_they_see(page, site):
    page.get_by_role("link", name="The whole sacrum of women").click()
    expect(page.locator("#counts")).to_be_visible()
    assert found(page) == site.expected(QUESTIONS[0])
    page.get_by_role("link", name="Tomodex").first.click()
    page.get_by_role("link", name="The left back muscle").click()
    expect(page.locator("#counts")).to_be_visible()
    assert found(page) == site.expected(QUESTIONS[1])


def test_typing_offers_names_in_both_languages_and_keys_take_them(page):
    box = page.get_by_role("combobox")
    box.press_sequentially("kreuz")
    option = page.get_by_role("option").first
    expect(option).to_contain_text("Kreuzbein")
    expect(box).to_have_attribute("aria-expanded", "true")
    keep(page, "completion")
    box.press("ArrowDown")
    expect(option).to_have_attribute("aria-selected", "true")
    assert box.get_attribute("aria-activedescendant") == option.get_attribute("id")
    box.press("Enter")
    expect(box).to_have_value("Kreuzbein ")
    expect(page.get_by_role("listbox")).to_be_hidden()
    box.press_sequentially("co")
    expect(page.get_by_role("option").first).to_contain_text("complete")
    box.press("Escape")
    expect(page.get_by_role("option")).to_have_count(0)
    box.press("Enter")
    expect(page.locator(".wrong")).to_be_visible()


def test_values_narrow_the_answer_and_the_back_button_widens_it(page):
    ask(page, "liver")
    everything, before = count(page), page.url
    choice = page.locator(".refine li a", has_text="Female")
    women = int(choice.locator(".n").inner_text().split()[0])
    choice.click()
    expect(page.locator(".chips")).to_contain_text("Sex: female")
    assert 0 < count(page) == women < everything
    keep(page, "refined")
    page.go_back()
    expect(page).to_have_url(before)
    expect(page.locator(".chips")).not_to_contain_text("Sex")
    assert count(page) == everything
    page.go_forward()
    expect(page.locator(".chips")).to_contain_text("Sex: female")
    page.get_by_role("link", name="Without: Sex: female").click()
    expect(page.locator(".chips")).not_to_contain_text("Sex")
    assert count(page) == everything


def test_the_answer_comes_without_loading_the_page_anew(page):
    page.evaluate("window.same = true")
    ask(page, "liver")
    before = page.url
    page.locator(".refine li a").first.click()
    expect(page.locator(".refine li.on").first).to_be_visible()
    expect(page).not_to_have_url(before)
    assert page.evaluate("window.same") is True
    expect(page.locator("#said")).to_contain_text("series")
    same = page.url
    shown = page.locator("#counts").inner_text()
    page.reload()
    assert page.url == same
    assert page.locator("#counts").inner_text() == shown


def test_a_click_in_the_body_asks_then_asks_for_the_whole_then_lets_go(page, site):
    page.locator(".tabs label", has_text="Bones").click()
    sacrum = page.locator("#body-bones-sacrum")
    sacrum.locator("path").click(position={"x": 8, "y": 12})
    expect(page.locator(".chips li")).to_have_text([re.compile("^Sacrum\\W*$")])
    expect(sacrum).to_have_class("region asked")
    keep(page, "body-asked")
    shown = count(page)
    sacrum.locator("path").click(position={"x": 8, "y": 12})
    expect(page.locator(".chips li")).to_contain_text(["Sacrum, whole"])
    expect(sacrum).to_have_class("region whole")
    assert 0 < count(page) <= shown
    whole = {t.series_uid for t in site.truths if is_whole(t, "sacrum")}
    assert found(page) == whole
    keep(page, "body-whole")
    sacrum.locator("path").click(position={"x": 8, "y": 12})
    expect(page.locator(".chips li")).to_have_count(0)


def test_every_structure_of_the_picture_can_be_reached_and_asked_for(page, site):
    links = page.locator(".region")
    hrefs = [str(links.nth(n).get_attribute("href")) for n in range(links.count())]
    assert len(hrefs) > 110
    names = {re.sub(r".*q=", "", href) for href in hrefs}
    for name in sorted(names)[::12]:
        page.goto(f"{site.url}/?q={name}")
        assert page.locator(".wrong").count() == 0, name
        assert page.locator(".region.asked").count() >= 1, name


def test_a_series_is_opened_and_has_what_is_known_of_it(page, site):
    ask(page, SACRUM)
    (uid,) = found(page)
    truth = next(one for one in site.truths if one.series_uid == uid)
    page.locator(".hit").first.click()
    expect(page.locator(".uid").first).to_have_text(uid)
    rows = page.locator("table").first.locator("tbody tr")
    assert rows.count() == len(truth.structures)
    row = rows.filter(has_text="Sacrum")
    expect(row).to_contain_text(f"{truth.structures['sacrum'].volume_ml:.1f} ml")
    expect(row).to_contain_text("whole")
    keep(page, "series")


def test_a_manifest_is_exported_with_what_was_found(page):
    ask(page, MUSCLE)
    uids = found(page)
    page.get_by_text("Export manifest").click()
    keep(page, "export")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    with download.value.path().open(encoding="utf-8-sig", newline="") as file:
        lines = [line for line in file if not line.startswith("#")]
    assert {row["SeriesInstanceUID"] for row in csv.DictReader(lines)} == uids
    page.get_by_text("Export manifest").click()
    page.get_by_text("Export manifest").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="JSON").click()
    assert all(uid in download.value.path().read_text() for uid in uids)


def test_a_cohort_is_saved_and_found_again(page):
    ask(page, MUSCLE)
    shown = count(page)
    page.get_by_text("Save cohort").click()
    page.get_by_label("Name of the cohort").fill("back muscles")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("heading", name="back muscles")).to_be_visible()
    page.get_by_role("link", name="Compare with today").click()
    expect(page.locator(".counts").last).to_contain_text(f"{shown} as they were")
    keep(page, "cohort")


def test_the_question_is_copied_as_a_program_and_as_a_link(context, page, site):
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, "liver")
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    program = page.evaluate("navigator.clipboard.readText()")
    assert "Index(" in program
    assert "'liver'" in program
    compile(program, "copied", "exec")
    page.get_by_role("button", name="Copy link").click()
    page.wait_for_function("navigator.clipboard.readText().then((text) => text.startsWith('http'))")
    assert page.evaluate("navigator.clipboard.readText()") == page.url


def test_a_person_with_a_keyboard_alone_gets_through(page, site):
    page.goto(f"{site.url}/?q=")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("/")
    expect(page.get_by_role("combobox")).to_be_focused()
    page.keyboard.type("liver")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.locator(".chips")).to_contain_text("Liver")
    expect(page.get_by_role("combobox")).to_be_focused()
    passed = set[str]()
    for _ in range(60):
        page.keyboard.press("Tab")
        passed.add(page.evaluate(WHERE_THE_FOCUS_IS))
        if "refine" in passed:
            break
    assert passed >= {"acts", "hits", "refine"}
    page.keyboard.press("Enter")
    expect(page.locator(".refine li.on").first).to_be_visible()
    liver = page.locator("#body-organs-liver")
    liver.focus()
    keep(page, "focus")
    liver.press("Enter")
    expect(liver).to_have_class("region whole")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 360])
def test_no_page_has_a_barrier_or_is_wider_than_the_screen(browser, site, scheme, width):
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.set_default_timeout(SOON)
    page = context.new_page()
    uid = site.truths[1].series_uid
    paths = {
        "start": "/",
        "search": f"/?q={MUSCLE.replace(' ', '+')}",
        "wrong": "/?q=lever+complete",
        "nothing": "/?q=liver+and+not+liver",
        "series": f"/series/{uid}",
        "structures": "/structures",
        "cohorts": "/cohorts",
        "operations": "/operations",
        "missing": "/series/1.2.3",
        "nowhere": "/nowhere",
    }
    barriers, wide = {}, {}
    for name, path in paths.items():
        page.goto(site.url + path)
        page.evaluate(axe())
        said = page.evaluate("axe.run().then((found) => JSON.stringify(found.violations))")
        if violations := json.loads(said):
            barriers[name] = [
                (one["id"], one["nodes"][0]["target"], one["nodes"][0]["failureSummary"])
                for one in violations
            ]
        over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if over > 0:
            wide[name] = over
        keep(page, f"{name}-{width}-{scheme}")
    context.close()
    assert barriers == {}
    assert wide == {}


def test_who_logs_in_sees_what_their_role_may_until_they_log_out(browser, guarded):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    context.set_default_timeout(SOON)
    page = context.new_page()
    page.goto(f"{guarded.url}/?q=liver")
    # Styled: a page whose style its own policy forbids has no box in its middle.
    assert page.locator("main.login").evaluate("(box) => box.getBoundingClientRect().left") > 1
    keep(page, "login")
    page.get_by_label("Your token").fill("nobody's")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("Nobody has this token.")
    for role, sees in (("viewer", "fewer than 10"), ("researcher", "Save cohort")):
        page.goto(f"{guarded.url}/?q=liver")
        page.get_by_label("Your token").fill(TOKENS[role])
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_contain_text(sees)
        assert (page.locator(".hit").count() > 0) is (role == "researcher")
        keep(page, f"as-{role}")
        page.get_by_role("button", name=f"Log out {role}").click()
        expect(page).to_have_url(re.compile("/login"))
    page.get_by_label("Your token").fill(TOKENS["operator"])
    page.keyboard.press("Enter")
    expect(page.locator("nav a")).to_have_text(["Operations"])
    context.close()


def test_a_phone_reaches_what_lies_below_and_forms_open_ready_to_be_filled_in(browser, site):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(SOON)
    page = context.new_page()
    page.goto(f"{site.url}/?q=liver")
    page.get_by_text("Export manifest").click()
    over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert over <= 0
    page.get_by_text("Save cohort").click()
    expect(page.get_by_label("Name of the cohort")).to_be_focused()
    keep(page, "phone-save")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Refine", exact=True).click()
    expect(page.get_by_role("heading", name="Refine")).to_be_in_viewport()
    page.locator(".refine li a", has_text="Female").click()
    expect(page.locator(".chips")).to_contain_text("Sex: female")
    page.get_by_role("link", name="Body", exact=True).click()
    expect(page.locator("#body-organs-liver")).to_be_in_viewport()
    context.close()


def test_everything_works_without_a_script(browser, site):
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(SOON)
    page = context.new_page()
    page.goto(site.url)
    page.get_by_label("What the series should show").fill(SACRUM)
    page.get_by_role("button", name="Search").click()
    assert found(page) == site.expected(QUESTIONS[0])
    page.get_by_role("link", name="Without: Sex: female").click()
    page.locator(".tabs label", has_text="Vessels").click()
    page.locator("#body-vessels-aorta").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".chips")).to_contain_text("Aorta")
    assert page.get_by_role("button", name="Copy").count() == 0
    context.close()
