"""Renders chat templates with transformers and writes what they must give.

    pip install transformers==5.23.0 jinja2==3.1.6
    python make_template.py                  # templates/*.jinja and snippets.py, beside this file
    python make_template.py --public FOLDER  # FOLDER/*.jinja, to FOLDER/cases.json

The second form is for templates whose licences keep them out of this repository; the tests read
such a folder when the environment variable MINIMA_TEMPLATES names it.
"""

import argparse
import datetime
import json
import pathlib

import jinja2
import transformers
from transformers.utils import chat_template_utils

from conversations import CONVERSATIONS

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2025, 7, 4, 9, 5, 3)


class Clock(datetime.datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = Clock


def outcome(render):
    """The text `render` gives, or how it failed."""
    try:
        return {"text": render()}
    except jinja2.exceptions.TemplateError as error:
        # Only raise_exception raises the class itself; all other errors are of its subclasses.
        if type(error) is jinja2.exceptions.TemplateError:
            return {"raised": error.message}
        return {"error": f"{type(error).__name__}: {error}"}
    except Exception as error:  # Python's own, from inside a template.
        return {"error": f"{type(error).__name__}: {error}"}


def chat(source, conversation):
    """What `apply_chat_template` renders, without a tokenizer around."""
    messages = [{k: v for k, v in m.items() if v is not None} for m in conversation["messages"]]
    rendered, _ = chat_template_utils.render_jinja_template(
        conversations=[messages], tools=conversation["tools"], chat_template=source,
        add_generation_prompt=conversation["add_generation_prompt"], **conversation["variables"])
    return rendered[0]


def write(path, cases):
    document = {
        "versions": {"transformers": transformers.__version__, "jinja2": jinja2.__version__},
        "now": [NOW.year, NOW.month, NOW.day, NOW.hour, NOW.minute, NOW.second], **cases}
    path.write_text(json.dumps(document, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def templates(folder, output):
    cases = []
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_bytes().decode("utf-8")
        for name, conversation in CONVERSATIONS.items():
            result = outcome(lambda: chat(source, conversation))
            cases.append({"template": path.stem, "conversation": name, **result})
    write(output, {"conversations": CONVERSATIONS, "cases": cases})
    rendered = sum("text" in case for case in cases)
    print(f"{output}: {len(cases)} cases, {rendered} of them texts")


def snippets(output):
    from snippets import CONTEXT, SNIPPETS

    def render(source):
        return chat_template_utils._compile_jinja_template(source).render(**CONTEXT)

    cases = [{"source": source, **outcome(lambda: render(source))} for source in SNIPPETS]
    write(output, {"context": CONTEXT, "cases": cases})
    failed = [case for case in cases if "text" not in case]
    print(f"{output}: {len(cases)} snippets, {len(failed)} of them fail in jinja2")
    for case in failed:
        print("  ", case["source"].encode("unicode_escape").decode()[:60], "->",
              (case.get("error") or case.get("raised"))[:60])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--public", type=pathlib.Path)
    folder = parser.parse_args().public
    if folder:
        templates(folder, folder / "cases.json")
    else:
        templates(HERE / "templates", HERE / "cases.json")
        snippets(HERE / "snippets.json")
