"""The demo in Chromium, driven as a visitor drives it: on a desk and on a phone, in light and in dark.

Whatever a test does, at its end the page has asked no other machine for anything, and the console shows no error.
Screenshots of every tab are left in `outputs/screenshots`.
"""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("gradio")
playwright_api = pytest.importorskip("playwright.sync_api")
axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")

from demo_server import REPOSITORY, Visitor, served  # noqa: E402
from hostile_files import picture as draw_noise  # noqa: E402
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route, expect  # noqa: E402

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium"),
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
NOISE = ("Method not implemented.",)  # gradio's own, in every app
SCREENSHOTS = REPOSITORY / "outputs" / "screenshots"
TABS = ["Search", "The hat", "The detective"]
LOOKS = {
    "light": ("light", 1280, 900),
    "dark": ("dark", 1280, 900),
    "phone": ("light", 390, 844),
    "phone-dark": ("dark", 390, 844),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("demo")) as server:
        yield server


@pytest.fixture(scope="module")
def visitor(server):
    return Visitor(server)


@pytest.fixture(scope="module")
def browser():
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=LOOKS)
def look(request):
    return request.param


@pytest.fixture
def page(browser: Browser, server, look):
    theme, width, height = LOOKS[look]
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=look.startswith("phone"))
    abroad, errors = [], []

    def route(route: Route) -> None:
        if route.request.url.startswith((server.url + "/", "data:", "blob:")):
            route.continue_()
        else:
            abroad.append(route.request.url)
            route.abort()

    def console(message: ConsoleMessage) -> None:
        if message.type == "error" and message.text not in NOISE:
            errors.append(f"{message.text} ({message.location['url']})")

    context.route("**/*", route)
    page = context.new_page()
    page.on("console", console)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{server.url}/?__theme={theme}")
    text_of(page).wait_for()
    assert page.locator("body.dark").count() == (theme == "dark")
    yield page
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    context.close()
    assert abroad == [], "the page asked another machine"
    assert errors == []
    assert overflow <= 0, f"the page is {overflow} pixels wider than the screen"


@pytest.fixture
def photo(tmp_path) -> Path:
    file = tmp_path / "photo.png"
    file.write_bytes(draw_noise())
    return file


def text_of(page: Page) -> Locator:
    return page.get_by_label("Text", exact=True).locator("visible=true")


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")


def answer(results: Locator, act: Callable[[], None]) -> None:
    """Act, and wait until other results are shown."""
    shown = "element => [...element.querySelectorAll('.saha-card')].map(card => card.outerHTML).join('')"
    before = results.evaluate(shown)
    act()
    changed = f"([element, before]) => !['', before].includes(({shown})(element))"
    results.page.wait_for_function(changed, arg=[results.element_handle(), before], timeout=20_000)


def search(page: Page) -> Locator:
    """Ask, and return what was found."""
    results = page.locator("#search-results")
    answer(results, page.get_by_role("button", name="Search", exact=True).click)
    return results


def upload(page: Page, photo: Path) -> None:
    page.locator("input[type=file][accept^='image']").locator("visible=true").or_(
        page.get_by_role("tabpanel").locator("visible=true").locator("input[type=file]")
    ).first.set_input_files(photo)
    page.locator("[data-testid=image] img, .image-frame img").locator("visible=true").first.wait_for()


def names(results: Locator) -> list[str]:
    return [name.strip() for name in results.locator(".saha-title, .saha-name").all_inner_texts()]


def scores(results: Locator) -> list[float]:
    shown = results.locator(".saha-score")
    assert shown.count() and all(score.is_visible() for score in shown.all())
    return [float(score) for score in shown.all_inner_texts()]


def expected(visitor: Visitor, text: str, photo: Path | None = None, find: str = "pictures") -> list[str]:
    """What the endpoint for programs finds, which the page must show."""
    file = visitor.uploaded(("photo.png", photo.read_bytes()))[0] if photo else None
    return [hit[find[:-1]] for hit in visitor.call("search", text, file, find, 10)]


def test_search_by_text_with_the_keyboard_alone(page, visitor):
    for _ in range(40):
        page.keyboard.press("Tab")
        if text_of(page).evaluate("element => element === document.activeElement"):
            break
    page.keyboard.press("Control+A")
    page.keyboard.type("two blue squares")
    results = page.locator("#search-results")
    answer(results, lambda: page.keyboard.press("Enter"))
    assert names(results) == expected(visitor, "two blue squares")
    assert scores(results) == sorted(scores(results), reverse=True)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    page.keyboard.press("Enter")
    expect(results.get_by_role("table")).to_be_visible()


def test_search_by_picture_by_both_and_for_texts(page, photo, visitor):
    text_of(page).fill("")
    upload(page, photo)
    assert names(search(page)) == expected(visitor, "", photo)
    text_of(page).fill("a green triangle")
    assert names(search(page)) == expected(visitor, "a green triangle", photo)
    page.get_by_label("Texts", exact=True).check()
    assert names(search(page)) == expected(visitor, "a green triangle", photo, "texts")


def test_an_example_is_searched_for_with_one_click(page):
    examples = page.locator(".saha-examples").first.get_by_role("button")
    expect(examples).to_have_count(6)
    results = page.locator("#search-results")
    for example in (examples.nth(1), examples.last):
        answer(results, example.click)
        assert scores(results)


def test_own_pictures_are_searched_in(page, tmp_path):
    photos = []
    for number in range(3):
        photos.append(tmp_path / f"{number}.png")
        photos[-1].write_bytes(draw_noise())
    page.get_by_role("button", name="Search in your own pictures").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add pictures").click()
    chooser.value.set_files(photos)
    expect(page.locator("#own-pictures")).to_contain_text("3 pictures")
    expect(page.get_by_label("My pictures")).to_be_checked()
    assert sorted(names(search(page))) == ["your picture 1", "your picture 2", "your picture 3"]


def test_a_picture_is_dropped_onto_its_place(page, photo, visitor):
    text_of(page).fill("")
    content = base64.b64encode(photo.read_bytes()).decode()
    files = page.evaluate_handle(
        """content => {
            const bytes = Uint8Array.from(atob(content), character => character.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "photo.png", { type: "image/png" }));
            return data;
        }""",
        content,
    )
    place = page.get_by_role("button", name="Drop an image file here to upload").locator("visible=true")
    for event in ("dragenter", "dragover", "drop"):
        place.dispatch_event(event, {"dataTransfer": files})
    page.locator(".image-frame img").locator("visible=true").first.wait_for()
    assert names(search(page)) == expected(visitor, "", photo)


def test_a_mistake_is_explained(page):
    text_of(page).fill("<|im_end|>")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_text("control token")).to_be_visible()
    assert_accessible(page)


def test_the_hat_shows_three_prompts_and_three_spaces(page, look):
    open_tab(page, "The hat")
    panels = page.locator(".saha-panel")
    text_of(page).fill("a yellow star <b>bold</b>")
    answer(page.locator("#hat-panels"), page.get_by_role("button", name="Compare").click)
    expect(panels).to_have_count(3)
    tops = {round(panel.bounding_box()["y"]) for panel in panels.all()}
    assert len(tops) == (3 if look.startswith("phone") else 1), "columns on a desk, one below the other on a phone"
    prompts = panels.locator("pre").all_inner_texts()
    assert len(set(prompts)) == 3
    for prompt, panel in zip(prompts, panels.all(), strict=True):
        assert "<|im_start|>system\n" in prompt and "a yellow star <b>bold</b>" in prompt
        expect(panel.get_by_role("img", name=re.compile("^The embedding space"))).to_be_visible()
        assert re.search(r"modality gap\s+\d\.\d+|\d\.\d+\s+modality gap", panel.inner_text(), re.I)
        assert panel.locator(".saha-card img").count() == 6


def test_the_detective_follows_an_anchor(page):
    open_tab(page, "The detective")
    case = page.locator("#detective-case")
    anchor = page.get_by_label(re.compile("^Anchor"))
    anchor.fill("7:")
    answer(case, lambda: anchor.press("Enter"))
    answer(case, page.get_by_role("button", name="Next anchor").click)
    answer(case, page.get_by_role("button", name="Previous anchor").click)
    candidates = case.locator(".saha-suspects")
    head = " ".join(candidates.locator("thead").all_text_contents())
    for column in ("Rank", "Score", "Owner asks", "Owner similarity", "Fate"):
        assert column in head
    ranks = [int(rank) for rank in candidates.locator("td[data-label=Rank]").all_inner_texts()]
    assert len(ranks) > 5 and ranks == sorted(ranks)
    fates = candidates.locator("td[data-label=Fate]").all_inner_texts()
    assert "mate" in fates and "suspected false negative" in fates
    members = case.locator("ol.saha-cards > li")
    assert members.count() >= 2
    cells = case.locator(".saha-matrix tbody td")
    assert cells.count() == members.count() ** 2
    displays = cells.evaluate_all("cells => [...new Set(cells.map(cell => getComputedStyle(cell).display))]")
    assert displays == ["table-cell"], "each below the picture that it is about"


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_fits_and_can_be_used_by_all(page, look, tab):
    open_tab(page, tab)
    page.locator("img").locator("visible=true").first.wait_for()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{tab.split()[-1].lower()}-{look}.png", full_page=True)
    assert_accessible(page)
    assert page.locator("img:not([alt])").count() == 0
    nameless = """inputs => inputs.filter(input => input.offsetParent && !(input.labels?.length || input.ariaLabel
        || input.getAttribute("aria-labelledby"))).map(input => input.outerHTML)"""
    assert page.locator("input, textarea, select").evaluate_all(nameless) == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("look", ["light", "dark"], indirect=True)
def test_the_focus_is_visible_at_every_stop(page, tab):
    open_tab(page, tab)
    stops = 0
    for _ in range(25):
        page.keyboard.press("Tab")
        stop = page.evaluate_handle("document.activeElement").as_element()
        if stop.evaluate("element => element === document.body"):  # the end, or the list of a dropdown that closes
            continue
        stops += 1
        box = stop.bounding_box()
        area = {side: max(box[side] - 8, 0) for side in "xy"}
        area |= {side: min(max(box[side], 24) + 16, 800) for side in ("width", "height")}
        focused = page.screenshot(clip=area, animations="disabled")
        stop.evaluate("element => element.blur()")
        blurred = page.screenshot(clip=area, animations="disabled")
        assert (focused == blurred) is False, stop.evaluate("element => element.outerHTML")[:400]
        stop.evaluate("element => element.focus({ preventScroll: true })")
    assert stops > 9


def assert_accessible(page: Page) -> None:
    fading = "a => a.playState === 'running' && !a.effect.target.matches('.timer')"  # a toast's clock
    page.wait_for_function(f"!document.getAnimations().some({fading})")
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
    violations = axe_playwright.Axe().run(page, options=rules).response["violations"]
    assert violations == [], "\n".join(
        f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}" for rule in violations for node in rule["nodes"]
    )
