"""Rounds of tools with OpenAI's client, against a Minima server whose engine plays a script.

    PYTHONPATH=.deps/clients python3 openai_tools.py http://127.0.0.1:PORT/v1

Prints a line per step and ends with "passed"; anything else is a failure.
"""

import json
import sys

import openai
import pydantic

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=300)


class GetWeather(pydantic.BaseModel):
    """The weather at a place."""

    place: str


tools = [
    openai.pydantic_function_tool(GetWeather, name="get_weather"),
    {"type": "function", "function": {"name": "now", "description": "The time"}},
]
places = ["Ulm", "Köln \"Süd\""]
question = [{"role": "user", "content": "What is the weather in Ulm and Cologne?"}]


def step(name):
    print(name, flush=True)


def results(calls):
    """What the functions give."""
    assert [call.function.name for call in calls] == ["get_weather"] * 2, calls
    assert len({call.id for call in calls}) == 2
    asked = [json.loads(call.function.arguments)["place"] for call in calls]
    assert asked == places, asked
    return [
        {"role": "tool", "tool_call_id": call.id, "content": f"sunny in {place}"}
        for call, place in zip(calls, asked)
    ]


def finish(messages):
    answer = client.chat.completions.create(model="tiny", messages=messages, tools=tools)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == "It is sunny in both.", answer
    assert answer.choices[0].message.tool_calls is None


step("a round")
answer = client.chat.completions.create(model="tiny", messages=question, tools=tools)
message = answer.choices[0].message
assert answer.choices[0].finish_reason == "tool_calls"
assert message.content == "Let me see." and message.reasoning_content == "Two calls."
finish(question + [message] + results(message.tool_calls))

step("a round, streamed")
stream = client.chat.completions.create(
    model="tiny", messages=question, tools=tools, stream=True, tool_choice="auto"
)
content, reasoning, calls, reasons = "", "", {}, []
for chunk in stream:
    delta = chunk.choices[0].delta
    content += delta.content or ""
    reasoning += getattr(delta, "reasoning_content", None) or ""
    reasons.append(chunk.choices[0].finish_reason)
    for call in delta.tool_calls or []:
        if call.id:
            assert call.index == len(calls) and call.type == "function"
            calls[call.index] = call
        else:
            calls[call.index].function.arguments += call.function.arguments
assert (content, reasoning) == ("Let me see.", "Two calls."), (content, reasoning)
assert reasons[-1] == "tool_calls" and not any(reasons[:-1])
made = [call.model_dump(exclude={"index"}) for call in calls.values()]
turn = {"role": "assistant", "content": content, "tool_calls": made}
finish(question + [turn] + results(calls.values()))

step("a round, through the client's helper")
with client.chat.completions.stream(model="tiny", messages=question, tools=tools) as helper:
    done = [event for event in helper if event.type == "tool_calls.function.arguments.done"]
    final = helper.get_final_completion().choices[0].message
assert [event.parsed_arguments.place for event in done] == places, done
assert final.content == "Let me see."
finish(question + [final] + results(final.tool_calls))

step("parse")
parsed = client.chat.completions.parse(model="tiny", messages=question, tools=tools[:1])
calls = parsed.choices[0].message.tool_calls
assert [call.function.parsed_arguments for call in calls] == [GetWeather(place=p) for p in places]

step("errors")
for wrong in (
    dict(tools=[{"type": "function", "function": {"name": "no spaces"}}]),
    dict(functions=[{"name": "f", "parameters": {}}]),
):
    try:
        client.chat.completions.create(model="tiny", messages=question, **wrong)
    except openai.BadRequestError as error:
        assert error.body["message"]
    else:
        raise AssertionError("BadRequestError was expected")
client.close()
print("passed")
