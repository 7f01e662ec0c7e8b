"""What a user of OpenAI's client does, against a Minima server.

    PYTHONPATH=.deps/clients python3 openai_client.py http://127.0.0.1:PORT/v1 KEY

Prints a line per step and ends with "passed"; anything else is a failure.
"""

import asyncio
import sys

import openai

url, key = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=300)
messages = [{"role": "user", "content": "Tell me a story"}]


def step(name):
    print(name, flush=True)


def refused(kind, code, call):
    try:
        call()
    except kind as error:
        assert error.code == code, error
        assert error.body["message"], error
        return error
    raise AssertionError(f"{kind.__name__} was expected")


step("models")
models = list(client.models.list())
assert [model.id for model in models] == ["tiny"], models
assert client.models.retrieve("tiny").owned_by == "minima"
refused(openai.NotFoundError, "model_not_found", lambda: client.models.retrieve("gpt-4"))

step("chat")
arguments = dict(model="tiny", messages=messages, max_tokens=24, temperature=0.8, seed=3)
chat = client.chat.completions.create(**arguments, logprobs=True, top_logprobs=2)
text = chat.choices[0].message.content
assert chat.object == "chat.completion" and chat.id.startswith("chatcmpl-")
assert chat.choices[0].message.role == "assistant" and text
assert chat.choices[0].finish_reason in ("stop", "length")
assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
tokens = chat.choices[0].logprobs.content
assert len(tokens) == chat.usage.completion_tokens
assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)

step("chat, streamed")
stream = client.chat.completions.create(
    **arguments, stream=True, stream_options={"include_usage": True}
)
pieces, usage = [], None
for chunk in stream:
    assert chunk.object == "chat.completion.chunk"
    usage = chunk.usage or usage
    pieces += [choice.delta.content or "" for choice in chunk.choices]
assert "".join(pieces) == text, (pieces, text)
assert usage == chat.usage, (usage, chat.usage)
with client.chat.completions.stream(**arguments) as helper:
    deltas = [event.delta for event in helper if event.type == "content.delta"]
assert "".join(deltas) == text

step("completions")
completion = client.completions.create(
    model="tiny", prompt=["The cat", "A dog"], n=2, max_tokens=8, seed=1, logprobs=3, echo=True
)
assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
assert completion.choices[3].text.startswith("A dog")
for choice in completion.choices:
    found = choice.logprobs
    count = len(found.tokens)
    assert count == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset)
    assert found.token_logprobs[0] is None and None not in found.token_logprobs[1:]
chunks = list(client.completions.create(model="tiny", prompt="The", max_tokens=4, stream=True))
assert chunks[-1].choices[0].finish_reason == "length"
assert client.completions.create(model="tiny", prompt=[5, 6, 7], max_tokens=1).choices

step("stop")
stop = text[len(text) // 2 : len(text) // 2 + 4]
short = client.chat.completions.create(**arguments, stop=[stop]).choices[0]
assert short.finish_reason == "stop" and short.message.content == text[: text.index(stop)]

step("errors")
refused(
    openai.BadRequestError,
    "context_length_exceeded",
    lambda: client.completions.create(model="tiny", prompt=[5] * 9000),
)
refused(
    openai.BadRequestError,
    "unsupported_parameter",
    lambda: client.chat.completions.create(
        **arguments, response_format={"type": "xml"}
    ),
)
refused(
    openai.NotFoundError,
    "unsupported_endpoint",
    lambda: client.embeddings.create(model="tiny", input="x"),
)
stranger = openai.OpenAI(base_url=url, api_key="wrong", max_retries=0)
refused(openai.AuthenticationError, "invalid_api_key", lambda: list(stranger.models.list()))

step("many at a time")


async def many():
    async with openai.AsyncOpenAI(base_url=url, api_key=key, timeout=300) as client:
        return await asyncio.gather(
            *(
                client.chat.completions.create(
                    model="tiny", messages=messages, max_tokens=24, temperature=0.8, seed=seed
                )
                for seed in range(12)
            )
        )


answers = [answer.choices[0].message.content for answer in asyncio.run(many())]
assert len(set(answers)) > 6, answers
client.close()
print("passed")
