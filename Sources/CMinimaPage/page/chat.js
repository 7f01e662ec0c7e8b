// The conversation.

const talk = document.getElementById("talk");
const scroller = document.getElementById("scroll");
const message = document.getElementById("message");

/** Turns in order: `{ role, text, reasoning, node, … }`. */
let turns = [];
/** What ends the answer on the way; `null` while there is none. */
let running = null;

function addTurn(role, text) {
    const turn = { role, text, raw: text, reasoning: "", node: element("li", `turn ${role}`) };
    const name = role === "user" ? "You" : hasChat ? "Model" : "Continuation";
    turn.node.append(element("h2", "hidden", name));
    turn.body = element("div", "body");
    turn.actions = element("div", "actions");
    turn.node.append(turn.body, turn.actions);
    turns.push(turn);
    talk.append(turn.node);
    document.getElementById("empty").hidden = true;
    return turn;
}

function dropFrom(turn) {
    const place = turns.indexOf(turn);
    for (const { node } of turns.splice(place)) node.remove();
    refresh();
}

function refresh() {
    const isBusy = running !== null;
    document.getElementById("send").hidden = isBusy;
    document.getElementById("stop").hidden = !isBusy;
    document.getElementById("clear").disabled = turns.length === 0;
    document.getElementById("empty").hidden = turns.length > 0;
    for (const node of talk.querySelectorAll(".actions button.rerun")) node.disabled = isBusy;
}

/** Whether the end is seen, so that what is added should be, too. */
function isAtEnd() {
    return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;
}

function toEnd() {
    scroller.scrollTop = scroller.scrollHeight;
}

// ---------------------------------------------------------------------------------------- turns

function addUser(text) {
    const turn = addTurn("user", text);
    turn.body.textContent = text;
    const edit = button("Edit", "Edit message", () => beginEdit(turn));
    edit.classList.add("rerun");
    turn.actions.append(button("Copy", "Copy message", (it) => copy(turn.text, it)), edit);
}

function beginEdit(turn) {
    if (running || turn.node.querySelector("form")) return;
    const form = element("form", "edit");
    const area = element("textarea");
    area.value = turn.text;
    area.rows = Math.min(turn.text.split("\n").length + 1, 12);
    area.setAttribute("aria-label", "Message");
    const end = () => {
        form.remove();
        turn.body.hidden = turn.actions.hidden = false;
    };
    const save = element("button", "primary", "Send");
    form.append(area, button("Cancel", "Cancel", end), save);
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        if (running || !area.value.trim()) return;
        dropFrom(turn);
        send(area.value);
    });
    area.addEventListener("keydown", (event) => {
        if (event.key === "Escape") end();
        submitsOnEnter(event, form);
    });
    turn.body.hidden = turn.actions.hidden = true;
    turn.node.append(form);
    area.focus();
}

/** Shows what has come of an answer. */
function showTurn(turn) {
    const stays = isAtEnd();
    const split = splitReasoning(turn.raw);
    turn.text = split.answer;
    const reasoning = turn.reasoning || split.reasoning;
    if (reasoning && !turn.thought) {
        turn.thought = element("details", "thought");
        turn.thought.append(element("summary", "", "Reasoning"), element("div"));
        turn.body.before(turn.thought);
    }
    if (turn.thought) render(turn.thought.lastElementChild, reasoning);
    render(turn.body, turn.text);
    if (stays) toEnd();
}

function showEnd(turn, figures, note, failure) {
    turn.node.removeAttribute("aria-busy");
    showTurn(turn);
    if (failure) {
        const box = element("div", "failure");
        box.setAttribute("role", "alert");
        box.append(element("p", "", failure.message));
        if (failure.status === 401) {
            box.append(button("Enter an API key", "Enter an API key", () => {
                document.getElementById("settings").showModal();
                document.getElementById("key").focus();
            }));
        }
        turn.actions.before(box);
    }
    const retry = button("Retry", "Retry answer", () => {
        if (running) return;
        dropFrom(turn);
        run();
    });
    retry.classList.add("rerun");
    if (turn.text) {
        turn.actions.append(button("Copy", "Copy answer", (it) => copy(turn.text, it)));
    }
    turn.actions.append(retry);
    const facts = [];
    if (figures.tokens) facts.push(`${grouped(figures.tokens)} tokens`);
    if (figures.rate !== null) facts.push(`${rateText(figures.rate)} tokens/s`);
    if (figures.first !== null) facts.push(`first after ${secondsText(figures.first)}`);
    if (note) facts.push(note);
    turn.actions.append(element("span", "facts", facts.join(" · ")));
    announce(failure ? "" : `Answer complete, ${facts.join(", ")}`);
    if (isAtEnd() || failure) toEnd();
}

// ------------------------------------------------------------------------------------- answering

function send(text) {
    addUser(text);
    run();
}

/** Lets the model answer the conversation as it is. */
async function run() {
    const asked = turns.filter((turn) => turn.role === "user" || turn.text);
    const turn = addTurn("assistant", "");
    turn.node.setAttribute("aria-busy", "true");
    running = new AbortController();
    refresh();
    toEnd();
    announce("Answering");
    const begun = performance.now();
    const figures = { tokens: 0, first: null, rate: null, prompt: null, cached: 0 };
    let [last, frame, note, failure] = [begun, 0, "", null];
    const draw = () => {
        frame = 0;
        showTurn(turn);
        showAnswer(figures);
    };
    showAnswer(figures);
    const time = (count) => {
        figures.tokens = count;
        const span = (last - begun) / 1000 - figures.first;
        figures.rate = count > 1 && span > 0 ? (count - 1) / span : null;
    };
    try {
        for await (const piece of answer(asked, running.signal)) {
            if (piece.text || piece.reasoning) {
                // An event is about a token; the usage at the end is exact.
                last = performance.now();
                figures.first ??= (last - begun) / 1000;
                time(figures.tokens + 1);
                turn.raw += piece.text;
                turn.reasoning += piece.reasoning;
            }
            if (piece.finish === "length") note = "ended at the limit of tokens";
            if (piece.usage) {
                time(piece.usage.completion_tokens);
                figures.prompt = piece.usage.prompt_tokens;
                figures.cached = piece.usage.prompt_tokens_details?.cached_tokens ?? 0;
            }
            frame ||= requestAnimationFrame(draw);
        }
    } catch (error) {
        if (error.name === "AbortError") note = "stopped";
        else failure = error instanceof Failure ? error : new Failure(String(error));
    }
    cancelAnimationFrame(frame);
    running = null;
    showAnswer(figures);
    showEnd(turn, figures, note, failure);
    refresh();
}

// ----------------------------------------------------------------------------------------- input

/** Enter sends; with Shift, and while a word is being composed, it is part of the text. */
function submitsOnEnter(event, form) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
}

function grow() {
    message.style.height = "auto";
    message.style.height = `${message.scrollHeight + 2}px`;
}

function setUpChat() {
    const composer = document.getElementById("composer");
    composer.addEventListener("submit", (event) => {
        event.preventDefault();
        if (running || !message.value.trim()) return;
        const text = message.value;
        message.value = "";
        grow();
        send(text);
    });
    message.addEventListener("keydown", (event) => submitsOnEnter(event, composer));
    message.addEventListener("input", grow);
    document.getElementById("stop").addEventListener("click", () => {
        running?.abort();
        message.focus();
    });
    document.addEventListener("keydown", (event) => {
        if (event.key === "Escape" && !document.querySelector("dialog[open]")) running?.abort();
    });
    document.getElementById("clear").addEventListener("click", () => {
        running?.abort();
        if (turns.length) dropFrom(turns[0]);
        message.focus();
    });
    document.getElementById("interface").textContent = hasChat
        ? ""
        : "This model has no chat template: it continues what you write.";
    if (needsKey && !settings.key) document.getElementById("settings").showModal();
    else message.focus();
}

setUpSettings();
setUpPanel();
setUpChat();
loadModel();
