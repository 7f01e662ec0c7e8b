"""What a user does in the chat page, in a browser without a window.

    PYTHONPATH=.deps/browser python3 chat_page.py BROWSER FOLDER SERVERS

BROWSER is the path of a Chromium, FOLDER takes a screenshot of each step that fails, SERVERS is a
JSON object: "model" serves a model with a draft, "markup" an answer full of markup, "keyed" asks for
the key "right-key", "endless" never ends an answer, has no chat template and lets no other site in,
"shared" lets the pages of "endless" in. Prints a line per step and ends with "passed"; anything else
is a failure.
"""

import json
import os
import re
import sys
import time
import traceback
import urllib.request
from contextlib import contextmanager

from playwright.sync_api import Error, expect, sync_playwright

browser_path, folder, servers = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
expect.set_options(timeout=60_000)
failed = []


@contextmanager
def page_of(server, name, allowed=(), **options):
    """A fresh browser's page; only `allowed` may appear among errors of the console."""
    print(name, flush=True)
    context = browser.new_context(**options)
    context.set_default_timeout(60_000)
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(f"error in the script: {error}"))
    page.on("dialog", lambda dialog: (wrong.append("a script ran"), dialog.dismiss()))
    page.on(
        "console",
        lambda line: line.type in ("error", "warning")
        and not any(text in line.text for text in allowed)
        and wrong.append(f"console: {line.text}"),
    )
    own = (servers[server], "data:")
    page.on(
        "request",
        lambda request: request.url.startswith(own) or wrong.append(f"request to {request.url}"),
    )
    try:
        page.goto(servers[server])
        yield page
        assert not wrong, wrong
    except Exception:
        traceback.print_exc(file=sys.stdout)
        print(*wrong, sep="\n")
        path = os.path.join(folder, f"minima-page-{name.replace(' ', '-')}.png")
        page.screenshot(path=path)
        print("screenshot:", path, flush=True)
        failed.append(name)
    finally:
        context.close()


def ask(page, text, wait=True):
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")
    if wait:
        expect(page.get_by_role("button", name="Retry answer").last).to_be_visible()


def figure(page, name):
    return page.locator(f"aside section [data-figure={name}]")


def is_positive(locator):
    text = locator.inner_text().replace(",", "")
    return text.replace(".", "").isdigit() and float(text) > 0


def becomes(holds):
    """Waits for what the server does."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.02)


def metric(server, name):
    with urllib.request.urlopen(servers[server] + "metrics", timeout=60) as response:
        lines = response.read().decode().splitlines()
    values = [line.split()[-1] for line in lines if line.startswith(f"minima_{name} ")]
    return float(values[0]) if values else 0


def set_fields(page, **values):
    page.get_by_role("button", name="Settings").click()
    for label, value in values.items():
        page.get_by_label(label.replace("_", " ")).fill(value)
    page.get_by_role("button", name="Done").click()


def fits(page):
    """Nothing is wider than the screen."""
    return page.evaluate(
        "document.documentElement.scrollWidth <= innerWidth"
        " && [...document.querySelectorAll('header, main, aside, .turn, #composer, button, dialog *')]"
        ".every((node) => node.getBoundingClientRect().right <= innerWidth + 0.5)"
    )


def answers():
    with page_of("model", "answers") as page:
        expect(page.locator("#model")).to_have_text("tiny")
        expect(page.locator("#health")).to_have_text("ready")
        assert page.title() == "tiny – Minima"
        # One answer that can be told from another.
        set_fields(page, Most_tokens="40", Temperature="0.8", Seed="3")
        with page.expect_request("**/v1/chat/completions") as sent:
            ask(page, "Tell me a story")
        body = sent.value.post_data_json
        assert (body["max_tokens"], body["temperature"], body["seed"]) == (40, 0.8, 3), body
        assert "top_p" not in body and body["messages"] == [
            {"role": "user", "content": "Tell me a story"}
        ]
        first = page.locator(".assistant .body").inner_text()
        assert len(first) > 20, first
        # As many as were asked for, or fewer where rounding lets the story end before.
        expect(page.locator(".assistant .facts")).to_contain_text(re.compile(r"[1-9]\d* tokens · "))
        expect(page.get_by_role("status")).to_contain_text("Answer complete")
        assert is_positive(figure(page, "answer-tokens"))
        # There is none when a busy machine shows the page all tokens at once.
        rate = figure(page, "answer-rate")
        assert is_positive(rate) or rate.inner_text() == "–", rate.inner_text()
        expect(figure(page, "first-token")).to_contain_text("s")
        # The panel follows the server.
        becomes(lambda: is_positive(figure(page, "accepted-length")))
        assert float(figure(page, "accepted-length").inner_text()) >= 1
        expect(figure(page, "resident")).to_contain_text("iB")
        expect(figure(page, "pages")).to_have_text("0 of 256")
        expect(figure(page, "cached")).to_contain_text("%")
        assert page.locator("#spark .line").get_attribute("d").startswith("M")
        # The same seed again, then another.
        page.get_by_role("button", name="Retry answer").click()
        expect(page.get_by_role("button", name="Retry answer")).to_be_visible()
        expect(page.locator(".assistant .body")).to_have_text(first)
        assert page.locator(".turn").count() == 2
        set_fields(page, Seed="4")
        page.get_by_role("button", name="Retry answer").click()
        expect(page.get_by_role("button", name="Retry answer")).to_be_visible()
        expect(page.locator(".assistant .body")).not_to_have_text(first)
        # A question and answer before go along; an edited question takes the place of all after it.
        with page.expect_request("**/v1/chat/completions") as sent:
            ask(page, "And then?")
        roles = [message["role"] for message in sent.value.post_data_json["messages"]]
        assert roles == ["user", "assistant", "user"], roles
        page.get_by_role("button", name="Edit message").first.click()
        page.get_by_role("textbox", name="Message").first.fill("Tell me more")
        page.keyboard.press("Enter")
        expect(page.locator(".user .body")).to_have_text(["Tell me more"])
        expect(page.get_by_role("button", name="Retry answer")).to_be_visible()
        page.get_by_role("button", name="New chat").click()
        expect(page.locator(".turn")).to_have_count(0)
        # The settings outlast the page.
        page.reload()
        expect(page.get_by_label("Seed")).to_have_value("4")


def markup():
    permissions = ["clipboard-read", "clipboard-write"]
    refused = ["requires 'Trusted"]
    with page_of("markup", "markup is text", refused, permissions=permissions) as page:
        ask(page, "<b>bold</b>")
        expect(page.locator(".user .body")).to_have_text("<b>bold</b>")
        body = page.locator(".assistant .body")
        expect(body).to_contain_text("<script>alert(1)</script>")
        expect(body).to_contain_text("<img src=x onerror=alert(2)>")
        expect(body.locator("strong")).to_have_text("strong")
        expect(body.locator("p code")).to_have_text("<i>inline</i>")
        expect(body.locator("pre code")).to_have_text("<p onclick='alert(3)'>\n\n**code**</p>")
        expect(body.locator(".bar span")).to_have_text("html")
        assert page.locator("#talk :is(script, img, b, i, a, iframe)").count() == 0
        thought = page.locator(".thought")
        expect(thought).not_to_have_attribute("open", "")
        expect(thought.locator("div")).to_be_hidden()
        assert "a plan" not in body.inner_text()
        thought.get_by_text("Reasoning").click()
        expect(thought.locator("div")).to_contain_text("a plan")
        page.get_by_role("button", name="Copy code").click()
        expect(page.get_by_role("status")).to_have_text("Copied")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == "<p onclick='alert(3)'>\n\n**code**</p>", copied
        # What the model thought is not sent back to it.
        with page.expect_request("**/v1/chat/completions") as sent:
            ask(page, "Again")
        assert "a plan" not in json.dumps(sent.value.post_data_json["messages"])
        # The browser would stop a script that makes markup of text.
        for script in (
            "document.body.innerHTML = '<p>'",
            "document.head.append(Object.assign(document.createElement('script'), {text: '1'}))",
        ):
            try:
                page.evaluate(f"() => {{ {script} }}")
                raise AssertionError(f"{script} was allowed")
            except Error as error:
                assert "Trusted" in str(error), error


def keys():
    refused = ["401"]
    with page_of("keyed", "keys", refused) as page:
        dialog = page.get_by_role("dialog", name="Settings")
        expect(dialog).to_be_visible()
        page.get_by_label("API key").fill("wrong-key")
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        ask(page, "Hello")
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("No valid API key was given")
        alert.get_by_role("button", name="Enter an API key").click()
        page.get_by_label("API key").fill("right-key")
        page.get_by_role("button", name="Done").click()
        expect(page.locator("#model")).to_have_text("tiny")
        page.get_by_role("button", name="Retry answer").click()
        expect(page.locator(".assistant .body")).to_have_text("fine")
        expect(alert).to_have_count(0)
        stored = page.evaluate("[JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
        assert "right-key" not in stored[0] and "right-key" in stored[1], stored


def failures():
    """What a server that thinks aloud, breaks or is gone sends, put together here."""
    pieces = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"reasoning_content": "a thought"}}]},
        {"choices": [{"delta": {"content": "half an"}}]},
        {"error": {"message": "the device is lost", "code": "internal_error"}},
    ]
    stream = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + "data: [DONE]\n\n"
    with page_of("markup", "failures", ["net::ERR", "429"]) as page:
        address = "**/v1/chat/completions"
        alert = page.get_by_role("alert")
        page.route(address, lambda route: route.fulfill(content_type="text/event-stream", body=stream))
        ask(page, "Hello")
        expect(page.locator(".thought div")).to_have_text("a thought")
        expect(page.locator(".assistant .body")).to_have_text("half an")
        expect(alert).to_have_text("The device is lost")
        for status, headers, body, words in (
            (429, {"Retry-After": "3"}, {"error": {"message": "the queue is full"}}, "full (3 s)"),
            (200, {}, None, "The connection ended before the answer did."),
        ):
            page.unroute(address)
            text = json.dumps(body) if body else stream[: stream.index("data: {\"error")]
            page.route(
                address,
                lambda route: route.fulfill(status=status, headers=headers, body=text),
            )
            page.get_by_role("button", name="Retry answer").click()
            expect(alert).to_contain_text(words)
        page.route("**/*", lambda route: route.abort("connectionrefused"))
        page.get_by_role("button", name="Retry answer").click()
        expect(alert).to_contain_text("cannot be reached")
        expect(page.locator("#health")).to_have_text("unreachable")
        page.unroute_all()
        expect(page.locator("#health")).to_have_text("ready")
        page.get_by_role("button", name="Retry answer").click()
        expect(page.locator(".assistant .body")).to_contain_text("word")
        expect(alert).to_have_count(0)


def stops():
    with page_of("endless", "stop") as page:
        expect(page.locator("#interface")).to_contain_text("no chat template")
        set_fields(page, Most_tokens="50000")
        cancelled = 'answers_total{reason="cancelled"}'
        for count, end in enumerate((
            lambda: page.get_by_role("button", name="Stop").click(),
            lambda: page.keyboard.press("Escape"),
        ), start=1):
            with page.expect_request("**/v1/completions") as sent:
                ask(page, "Go on", wait=False)
            assert sent.value.post_data_json["prompt"].endswith("Go on")
            expect(page.locator(".assistant .body").last).not_to_be_empty()
            expect(figure(page, "running")).to_have_text("1")
            becomes(lambda: is_positive(figure(page, "server-rate")))
            becomes(lambda: not figure(page, "pages").inner_text().startswith("0 of"))
            assert page.get_by_role("button", name="Send").is_hidden()
            end()
            expect(page.locator(".facts").last).to_contain_text("stopped")
            becomes(lambda: metric("endless", cancelled) == count)
            becomes(lambda: metric("endless", "requests_running") == 0)
            assert metric("endless", "pages_free") == metric("endless", "pages_total")
            expect(page.get_by_role("button", name="Send")).to_be_visible()
        # A page that is closed ends its answer, too.
        ask(page, "Go on", wait=False)
        becomes(lambda: metric("endless", "requests_running") == 1)
        page.goto("about:blank")
        becomes(lambda: metric("endless", cancelled) == 3)


def narrow():
    options = dict(viewport={"width": 360, "height": 640}, has_touch=True, color_scheme="dark")
    with page_of("markup", "narrow", **options) as page:
        expect(figure(page, "resident")).to_be_hidden()
        ask(page, "word " * 40 + "x" * 200)
        assert fits(page)
        expect(page.get_by_role("textbox", name="Message")).to_be_in_viewport()
        page.locator("aside summary").click()
        expect(figure(page, "resident")).to_be_visible()
        assert fits(page)
        page.locator("aside summary").click()
        page.get_by_role("button", name="Settings").click()
        expect(page.get_by_role("button", name="Done")).to_be_in_viewport()
        assert fits(page)


def other_sites():
    """Pages of other origins, by what a browser lets them do."""
    script = """async (url) => {
        const call = async (path, options) => {
            try {
                const response = await fetch(url + path, options);
                return [response.status, (await response.json()).object];
            } catch (error) {
                return [0, error.name];
            }
        };
        const body = JSON.stringify({ messages: [{ role: "user", content: "x" }] });
        const headers = { "Content-Type": "application/json", "X-Stainless-Lang": "js" };
        return [
            await call("v1/models"),
            await call("v1/chat/completions", { method: "POST", headers, body }),
            (await fetch(url + "v1/chat/completions", { method: "POST", mode: "no-cors", body })).type,
        ];
    }"""
    print("other sites", flush=True)
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(servers["endless"])
    found = page.evaluate(script, servers["shared"])
    assert found[:2] == [[200, "list"], [200, "chat.completion"]], found
    generated = metric("markup", "generated_tokens_total")
    found = page.evaluate(script, servers["markup"])
    assert found[:2] == [[0, "TypeError"], [0, "TypeError"]], found
    # Sent without asking first, it does not come through either.
    assert metric("markup", "generated_tokens_total") == generated
    context.close()


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=browser_path, timeout=180_000)
    for step in (answers, markup, keys, failures, stops, narrow, other_sites):
        step()
    browser.close()
print("failed: " + ", ".join(failed) if failed else "passed")
sys.exit(len(failed))
