"""The page in a headless Chromium."""

import os
import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("OPTIQ_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: OPTIQ_BROWSER=1 make test installs one, OPTIQ_CHROMIUM names another")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 800, "light"), (360, 640, "dark")], ids=["desk", "phone"])
def page(request, browser, server):
    width, height, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.problems = []
    page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: page.problems.append(str(e)))
    page.on("request", lambda r: page.problems.append(r.url) if not r.url.startswith((server.url, "data:", "blob:")) else None)
    page.goto(server.url + "/")
    sync_api.expect(page.locator("#model-name")).to_have_text("qwen2")
    yield page
    assert page.problems == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    context.close()


def test_chat_by_keyboard(page):
    page.keyboard.type("The sea is")
    page.keyboard.press("Enter")
    foot = page.locator(".message.assistant .foot")
    sync_api.expect(foot).to_contain_text("tok/s", timeout=60000)
    assert page.locator(".message.user").inner_text() == "The sea is"


def test_stop(page, server):
    page.evaluate("""() => {
      const real = window.fetch;
      window.fetch = (path, options) => real(path, options.body ? { ...options, body: JSON.stringify({ ...JSON.parse(options.body), ignore_eos: true }) } : options);
    }""")  # an answer that does not end by itself
    page.locator("#show-settings").click()
    page.locator("[name=max_tokens]").fill("3000")
    page.locator("[name=temperature]").fill("1.5")
    page.locator("#show-settings").click()
    page.locator("#prompt").fill("On and on")
    page.keyboard.press("Enter")
    page.locator("#stop").click()
    sync_api.expect(page.locator(".message.assistant .foot")).to_contain_text("Copy")
    server.wait_idle()


def test_settings_stay(page):
    page.locator("#show-settings").click()
    page.locator("[name=temperature]").fill("0.7")
    page.locator("[name=temperature]").press("Tab")
    page.reload()
    page.locator("#show-settings").click()
    assert page.locator("[name=temperature]").input_value() == "0.7"
    page.locator("#reset-settings").click()
    assert page.locator("[name=temperature]").input_value() == ""


def test_errors_are_shown(page):
    page.locator("#prompt").fill("sea " * 9000)
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#toast")).to_contain_text("context length", timeout=20000)
    page.problems.clear()  # the browser's own note of the status 400


def test_model_view(page):
    page.locator("#show-model").click()
    sync_api.expect(page.locator(".bits")).to_contain_text("mlp.down_proj")
    sync_api.expect(page.locator(".tile").first).to_contain_text("running")


def test_markdown_is_never_html(page):
    html = page.evaluate("""async () => {
      const { markdown } = await import("/web/markdown.js");
      const div = document.createElement("div");
      div.append(...markdown("# T\\n\\n<img src=x onerror=alert(1)> **b** `c<d>` [x](javascript:alert(1)) [y](https://e.example)\\n\\n```js\\n<script>\\n```\\n\\n- one\\n- two\\n\\n|a|b|\\n|-|-|\\n|1|2|"));
      return div.innerHTML;
    }""")
    assert "<img" not in html and "<script" not in html and 'href="javascript' not in html
    for part in ("<h2>T</h2>", "<strong>b</strong>", "<code>c&lt;d&gt;</code>", 'href="https://e.example"', "<li>one</li>", "<td>1</td>"):
        assert part in html
