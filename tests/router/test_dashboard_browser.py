"""The dashboard in a real browser, in front of real engines.

Whatever a test does, the browser's console must stay clean: a violation of the page's own security
policy, a failed request or an exception fails it. The tests take the documentation's `pictures`.
"""

import os
import re
import shutil

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, async_playwright, expect

from e2e.cluster import packages
from tests.router.support.pictures import fill_the_charts, picture, traffic
from tests.router.support.statuses import (
    NEW,
    OLD,
    ROLLING,
    SERVING,
    WITHOUT_NODE,
    ago,
    status,
)

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1440, "height": 1000}

expect.set_options(timeout=120_000)  # other work on the machine is no failure

# Leaves in `lengths` how long the first answer was after each change of the conversation.
NOTE_LENGTHS = """() => {
    const messages = document.querySelector("#messages");
    window.lengths = [];
    const note = () => lengths.push(messages.querySelector(".assistant p")?.innerText.length ?? 0);
    new MutationObserver(note).observe(
        messages, { childList: true, subtree: true, characterData: true });
}"""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:playwright")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Debian's Chromium; root on a Debian machine gets it installed."""
    found = shutil.which("chromium")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        packages.install(("chromium", "fonts-dejavu-core"))
        found = shutil.which("chromium")
    return found or pytest.skip("no chromium on PATH; on Debian: apt-get install chromium")


def put_event(api_server, name: str, reason: str, message: str, seconds_ago: int, kind="Normal"):
    api_server.events.put_object(
        name,
        involvedObject={"kind": "InferenceService", "name": "demo"},
        type=kind,
        reason=reason,
        message=message,
        count=1,
        lastTimestamp=ago(seconds_ago),
    )


@pytest.fixture
async def front(api_server, start_router, engines, make_routing):
    """A ready router before two real engines, in a namespace with two services."""
    for engine in engines:
        if engine.process.popen.poll() is not None:
            await engine.restart()
    api_server.put_routing(make_routing(*(engine.routed for engine in engines)))
    api_server.put_routing(make_routing(service="large", model="llama-70b"))
    api_server.services.put_object("demo", spec={}, status=status(SERVING))
    large = status(WITHOUT_NODE, updated=0, summary="0/1") | {"currentRevision": ""}
    api_server.services.put_object("large", spec={}, status=large)
    put_event(api_server, "a", "GroupCreated", f"started demo-{OLD}-1", 3900)
    put_event(api_server, "b", "RolloutComplete", f"all replicas are of {OLD}", 3800)
    put_event(api_server, "c", "PodRecreated", f"demo-{OLD}-0 crashed in vain", 1200, "Warning")
    router = start_router(keep_alive_seconds=0.3)
    await router.ready()
    await router.admitted(2)
    return router


@pytest.fixture
async def browse(chromium, front):
    """`page = await browse()` opens the dashboard; its console must be clean at the end."""
    complaints = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)

        async def open_page(**options) -> Page:
            context = await browser.new_context(**{"viewport": DESKTOP, **options})
            page = await context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on(
                "console",
                lambda said: (
                    complaints.append(said.text) if said.type in ("error", "warning") else None
                ),
            )
            await page.goto(f"{front.url}/dashboard/")
            return page

        yield open_page
        await browser.close()
    assert complaints == []


async def serious_flaws(page: Page) -> list[str]:
    found = await Axe().run(page)
    return [
        f"{flaw['id']}: {flaw['help']} {[node['html'][:200] for node in flaw['nodes']]}"
        for flaw in found.response["violations"]
        if flaw["impact"] in ("serious", "critical")
    ]


async def test_a_live_rollout_is_shown_as_it_goes(browse, front, api_server, engines, make_routed):
    page = await browse()
    await expect(page.get_by_role("heading", name="demo")).to_be_visible()
    await expect(page.locator("#connection")).to_have_text("live from router-0")
    assert await page.get_by_role("region", name="Rollout").count() == 0

    api_server.services.put_object("demo", spec={}, status=status(ROLLING, updated=1, update=NEW))
    put_event(api_server, "d", "GroupCreated", f"started demo-{NEW}-0", 5)

    rollout = page.get_by_role("region", name="Rollout")
    await expect(rollout).to_contain_text("1 of 2 updated")
    await expect(rollout).to_contain_text(NEW)
    await expect(page.get_by_text(f"started demo-{NEW}-0")).to_be_visible()

    done = status(SERVING, update=NEW) | {"currentRevision": NEW}
    api_server.services.put_object("demo", spec={}, status=done)
    await expect(rollout).to_have_count(0)


async def test_charts_show_live_traffic(browse, front, client):
    page = await browse(color_scheme="dark")
    async with traffic(front.url, client):
        speed = page.locator("figure", has_text="Tokens per second").locator("strong")
        await expect(speed).to_have_text(re.compile(r"[1-9]"))
        first = page.locator("figure", has_text="Time to first token").locator("strong")
        await expect(first).to_have_text(re.compile(r"\d (ms|s)"))
        await expect(page.get_by_role("cell", name=re.compile("[1-4] of 4")).first).to_be_visible()
        await fill_the_charts(front.url, client)
        await picture(page, "dashboard-dark")
    plot = page.get_by_role("slider", name="Tokens per second")
    await plot.focus()
    newest = await plot.get_attribute("aria-valuetext")
    await page.keyboard.press("ArrowLeft")
    assert await plot.get_attribute("aria-valuetext") != newest


async def test_the_chat_streams_and_says_how_fast_and_who(browse, front, client):
    page = await browse()
    await fill_the_charts(front.url, client)
    await expect(page.locator("#model")).to_have_value("smollm2")
    await page.get_by_text("Options").click()
    await page.get_by_label("Temperature").fill("0")
    await page.get_by_label("Most tokens").fill("60")
    await page.get_by_label("Message").fill(
        "What is the capital of France, and what is it known for?"
    )
    await page.evaluate(NOTE_LENGTHS)
    await page.keyboard.press("Enter")

    answer = page.locator("#messages .assistant").last
    await expect(answer).to_contain_text("Paris")
    await expect(answer.locator(".note")).to_have_text(
        re.compile(rf"[\d.]+ tok/s · first token after .+ · answered by demo-{OLD}-[01]")
    )
    lengths = await page.evaluate("new Set(lengths).size")
    assert lengths > 3, "the answer came as a whole, not as a stream"
    await picture(page, "dashboard")


async def test_everything_is_there_on_a_phone_and_by_keyboard(browse, front, client):
    page = await browse(viewport=PHONE, has_touch=True)
    await fill_the_charts(front.url, client)
    await expect(page.get_by_role("heading", name="demo")).to_be_visible()
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], "the page scrolls sideways"

    await expect(page.get_by_text("crashed in vain")).to_be_attached()
    await picture(page, "dashboard-phone")

    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")  # the second skip link leads to the chat
    await page.keyboard.type("Hello")
    await expect(page.get_by_label("Message")).to_have_value("Hello")
    large = page.get_by_role("button", name=re.compile("large"))
    await large.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="large")).to_be_visible()
    await expect(page.get_by_text("What to do").first).to_be_visible()


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
async def test_axe_finds_no_serious_flaw(browse, color_scheme):
    page = await browse(color_scheme=color_scheme)
    await page.get_by_label("Message").fill("Hello")
    await page.keyboard.press("Enter")
    await expect(page.locator("#messages .note")).to_contain_text("answered by")
    for name in ("demo", "large"):
        await page.get_by_role("button", name=re.compile(name)).click()
        await expect(page.get_by_role("heading", name=name)).to_be_visible()
        assert await serious_flaws(page) == []


async def test_with_keys_on_nothing_is_told_without_one(
    chromium, api_server, start_router, engines, make_routing
):
    """The page asks for the key; the browser logs the refusal itself, so no clean console here."""
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"  # of "secret"
    api_server.secret = {"alice": f'{{"sha256": "{digest}"}}'}
    api_server.put_routing(make_routing(engines[0].routed))
    router = start_router(keys_secret="openinference-keys")  # noqa: S106  a name
    await router.ready()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = await browser.new_page()
        await page.goto(router.url)
        await expect(page.get_by_role("dialog")).to_be_visible()
        assert await page.get_by_role("heading", name="demo").count() == 0
        await page.get_by_role("textbox", name="API key").fill("secret")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="demo")).to_be_visible()
        await browser.close()
