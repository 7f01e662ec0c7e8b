// The server's interface as this page uses it.

const hasChat = document.documentElement.dataset.interface === "chat";
const needsKey = document.documentElement.dataset.key === "required";

/** Why there is no answer, in words; `status` is HTTP's, or 0. */
class Failure extends Error {
    constructor(message, status = 0, code = "") {
        super(message.charAt(0).toUpperCase() + message.slice(1));
        this.status = status;
        this.code = code;
    }

    static async of(response) {
        let error = {};
        try {
            error = (await response.json()).error ?? {};
        } catch {
            // A proxy's page, say: the status has to do.
        }
        let message = error.message ?? `The server answered with status ${response.status}.`;
        const seconds = response.headers.get("Retry-After");
        if (response.status === 429 && seconds) message += ` (${seconds} s)`;
        return new Failure(message, response.status, error.code ?? "");
    }
}

const unreachable = "The server cannot be reached. Is it still running?";

/** Sends a request, with the key if there is one. */
async function request(path, options = {}) {
    const headers = { ...options.headers };
    if (settings.key) headers.Authorization = `Bearer ${settings.key}`;
    let response;
    try {
        response = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Failure(unreachable);
    }
    if (!response.ok) throw await Failure.of(response);
    return response;
}

/** The data of server-sent events, one after the other. */
async function* events(response) {
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
        let chunk;
        try {
            chunk = await reader.read();
        } catch (error) {
            if (error.name === "AbortError") throw error;
            throw new Failure("The connection ended before the answer did.");
        }
        if (chunk.done) return;
        const lines = (rest + decoder.decode(chunk.value, { stream: true })).split("\n");
        rest = lines.pop();
        for (const line of lines) {
            if (line.startsWith("data:")) yield line.slice(5).trim();
        }
    }
}

/**
 * An answer to a conversation, in pieces: `{ text, reasoning, finish, usage }`, all optional.
 * Aborting ends it on the server, too.
 */
async function* answer(turns, signal) {
    const body = {
        ...parameters(), stream: true, stream_options: { include_usage: true },
    };
    if (hasChat) {
        const system = settings.system.trim();
        body.messages = [
            ...(system ? [{ role: "system", content: system }] : []),
            ...turns.map((turn) => ({ role: turn.role, content: turn.text })),
        ];
    } else {
        // Without a template there are no turns, only a text that goes on; its interface ends an
        // answer after 16 tokens unless told otherwise.
        const system = settings.system.trim();
        body.prompt = [...(system ? [system] : []), ...turns.map((turn) => turn.text)].join("\n");
        body.max_tokens ??= 256;
    }
    const response = await request(hasChat ? "/v1/chat/completions" : "/v1/completions", {
        method: "POST", signal, body: JSON.stringify(body),
        headers: { "Content-Type": "application/json" },
    });
    for await (const data of events(response)) {
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new Failure(event.error.message, 0, event.error.code);
        const choice = event.choices?.[0];
        const delta = choice?.delta ?? {};
        yield {
            text: delta.content ?? choice?.text ?? "",
            reasoning: delta.reasoning_content ?? delta.reasoning ?? "",
            finish: choice?.finish_reason, usage: event.usage,
        };
    }
    throw new Failure("The connection ended before the answer did.");
}
