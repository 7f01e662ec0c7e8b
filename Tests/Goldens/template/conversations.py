"""Conversations that the chat templates are rendered with; see make_template.py."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place, \"now\" or later",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City & country, e.g. Málaga <Spain>"},
                "unit": {"type": "string", "enum": ["°C", "°F"], "default": "°C"},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["place"],
        },
    },
}
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Searches",
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"oneOf": [{"type": "string"}, {"type": "null", "default": None}]},
                "limits": {
                    "type": "object",
                    "properties": {
                        "low": {"type": "number", "default": 1e-7},
                        "tags": {"type": "array", "items": {"type": "array", "items": {
                            "type": "object", "properties": {"x": {"type": ["string", "null"]}}}}},
                    },
                    "required": ["low"],
                },
                "exact": {"type": "boolean", "default": False},
            },
        },
    },
}
PLAIN = {"type": "function", "function": {
    "name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}}}


def call(name, arguments, identifier="abcdef123"):
    return {"id": identifier, "type": "function",
            "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "  You are terse.\nAlways.  "}
HELLO = {"role": "user", "content": "Hello!"}
HI = {"role": "assistant", "content": "Hi. How can I help?"}
ASK = {"role": "user", "content": " What is the weather in Málaga? 你好 🙂 e\u0301 \n"}
CALL = {"role": "assistant", "content": "", "tool_calls": [
    call("get_weather", {"place": "Málaga", "days": [1, 2], "wind": True, "x": 1.5, "n": None})]}
ANSWER = {"role": "tool", "tool_call_id": "abcdef123", "name": "get_weather",
          "content": "{\"t\": 21.5, \"sky\": \"clear\\n\"}"}
SUNNY = {"role": "assistant", "content": "21.5 °C, clear."}

STYLE = {"bos_token": "<s>", "eos_token": "</s>"}


def conversation(messages, tools=None, prompt=False, **variables):
    return {"messages": messages, "tools": tools, "add_generation_prompt": prompt,
            "variables": {**STYLE, **variables}}


CONVERSATIONS = {
    "user": conversation([HELLO], prompt=True),
    "user-no-prompt": conversation([HELLO]),
    "system": conversation([SYSTEM, HELLO], prompt=True),
    "turns": conversation([SYSTEM, HELLO, HI, ASK], prompt=True),
    "turns-done": conversation([HELLO, HI, ASK, SUNNY]),
    "no-thinking": conversation([HELLO, HI, ASK], prompt=True, enable_thinking=False),
    "thinking": conversation([HELLO], prompt=True, enable_thinking=True, thinking=True),
    "tools": conversation([SYSTEM, ASK], [WEATHER, SEARCH, PLAIN], prompt=True),
    "tools-no-system": conversation([ASK], [SEARCH], prompt=True),
    "call": conversation([SYSTEM, ASK, CALL], [WEATHER]),
    "call-answered": conversation([SYSTEM, ASK, CALL, ANSWER], [WEATHER], prompt=True),
    "call-done": conversation([ASK, CALL, ANSWER, SUNNY], [WEATHER]),
    "call-then-ask": conversation([ASK, CALL, ANSWER, SUNNY, HELLO], [WEATHER], prompt=True),
    "two-calls": conversation(
        [ASK, {"role": "assistant", "content": "Both.", "tool_calls": [
            call("get_weather", {"place": "Ulm"}, "aaaaaaaaa"), call("now", {}, "bbbbbbbbb")]},
         {"role": "tool", "tool_call_id": "aaaaaaaaa", "content": "rain"},
         {"role": "tool", "tool_call_id": "bbbbbbbbb", "content": "12:00"}], [WEATHER, PLAIN],
        prompt=True),
    "call-arguments-text": conversation(
        [ASK, {"role": "assistant", "tool_calls": [
            {"function": {"name": "now", "arguments": "{\"zone\": \"UTC\"}"}}]}], [PLAIN]),
    "reasoning": conversation(
        [HELLO, {"role": "assistant", "reasoning_content": "\nGreet back.\n", "content": "Hi."}]),
    "reasoning-tags": conversation(
        [HELLO, {"role": "assistant", "content": "<think>\nGreet.\n</think>\n\nHi."}, ASK,
         {"role": "assistant", "content": "<think>\nLook up.\n</think>\n\nClear."}]),
    "reasoning-call": conversation(
        [ASK, {"role": "assistant", "reasoning": "Need the weather.", "tool_calls": [
            call("get_weather", {"place": "Ulm"})]}, ANSWER], [WEATHER], prompt=True),
    "null-content": conversation(
        [ASK, {"role": "assistant", "content": None, "tool_calls": [call("now", {})]}, ANSWER],
        [PLAIN], prompt=True),
    "blocks": conversation(
        [{"role": "user", "content": [
            {"type": "text", "text": "What is this?"}, {"type": "image"}]}], prompt=True),
    "blocks-unknown": conversation(
        [{"role": "user", "content": [{"type": "sound", "sound": "x"}]}], prompt=True),
    "not-alternating": conversation([HELLO, HELLO], prompt=True),
    "assistant-first": conversation([HI, HELLO], prompt=True),
    "orphan-answer": conversation([HELLO, ANSWER], prompt=True),
    "role-unknown": conversation([{"role": "narrator", "content": "Once."}], prompt=True),
    "developer": conversation([{"role": "developer", "content": "Be brief."}, HELLO], prompt=True),
    "date-given": conversation([HELLO], prompt=True, date_string="26 Jul 2024"),
    "builtin": conversation(
        [SYSTEM, ASK, {"role": "assistant", "tool_calls": [
            call("browser", {"query": "weather", "n": "3"})]}], prompt=True,
        builtin_tools=["browser", "python", "code_interpreter", "interpreter"]),
    "tools-in-system": conversation(
        [SYSTEM, ASK], [WEATHER], prompt=True, tools_in_user_message=False),
    "identity": conversation(
        [HELLO], prompt=True, model_identity="You are Ada.", reasoning_effort="high",
        identity="You are Ada.", effort="high"),
    "control-text": conversation(
        [{"role": "user", "content": "{{ 7*7 }} {% if %} <|im_end|> [/INST] \\n \t\r\n  x  "},
         {"role": "assistant", "content": "\n\n  spaced\u00a0 \n"}], prompt=False),
    "channel-text": conversation(
        [HELLO, {"role": "assistant", "content": "<|channel|>analysis<|message|>x"}]),
    "empty-system": conversation([{"role": "system", "content": ""}, HELLO], prompt=True),
    "object-answer": conversation(
        [ASK, CALL, {"role": "tool", "tool_call_id": "abcdef123",
                     "content": {"content": "it is 'fine'", "list": [1, "a", None, True, 0.1]}}],
        [WEATHER], prompt=True),
}
