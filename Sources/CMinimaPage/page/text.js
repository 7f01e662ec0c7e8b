"use strict";
// Text of a model as elements. Only textContent is ever set: whatever a model writes stays text, and
// the page's policy (Trusted Types) refuses anything else.

/** An element of a class, with a text. */
function element(name, className = "", text = "") {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text) node.textContent = text;
    return node;
}

/** A button that does something. */
function button(text, label, action) {
    const node = element("button", "", text);
    node.type = "button";
    if (label !== text) node.setAttribute("aria-label", label);
    node.addEventListener("click", () => action(node));
    return node;
}

/**
 * What a model thought and what it says: `<think>` may open a text or stand in the prompt already, in
 * which case only its end is seen.
 */
function splitReasoning(text) {
    const [open, close] = ["<think>", "</think>"];
    const start = text.trimStart();
    if (start && open.startsWith(start)) return { reasoning: "", answer: "" };
    const end = text.indexOf(close);
    if (end >= 0) {
        const before = text.slice(0, end).replace(/^\s*<think>/, "");
        return { reasoning: before.trim(), answer: text.slice(end + close.length).trimStart() };
    }
    if (start.startsWith(open)) return { reasoning: start.slice(open.length).trim(), answer: "" };
    return { reasoning: "", answer: text };
}

/** Paragraphs and fenced code, in order. */
function blocks(text) {
    const found = [];
    let paragraph = [];
    let fence = null;
    const endParagraph = () => {
        if (paragraph.length) found.push({ kind: "text", text: paragraph.join("\n") });
        paragraph = [];
    };
    for (const line of text.split("\n")) {
        if (fence) {
            const end = line.match(/^ {0,3}(`{3,}|~{3,})\s*$/);
            if (end && end[1].startsWith(fence.mark)) {
                fence = null;
            } else {
                fence.lines.push(line);
                fence.block.text = fence.lines.join("\n");
            }
            continue;
        }
        const begin = line.match(/^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)\s*$/);
        if (begin) {
            endParagraph();
            const block = { kind: "code", language: begin[2], text: "" };
            found.push(block);
            fence = { mark: begin[1], lines: [], block };
        } else if (line.trim()) {
            paragraph.push(line);
        } else {
            endParagraph();
        }
    }
    endParagraph();
    return found;
}

/** Makes `container` show `text`; what has not changed since the last call stays untouched. */
function render(container, text) {
    const parts = blocks(text);
    parts.forEach((part, index) => {
        let node = container.children[index];
        if (node?.dataset.kind !== part.kind) {
            const fresh = part.kind === "code" ? codeBlock() : element("p");
            fresh.dataset.kind = part.kind;
            if (node) node.replaceWith(fresh);
            else container.append(fresh);
            node = fresh;
        }
        if (node.source === part.text) return;
        node.source = part.text;
        if (part.kind === "code") {
            node.querySelector("span").textContent = part.language || "code";
            node.querySelector("code").textContent = part.text;
        } else {
            node.replaceChildren(...inline(part.text));
        }
    });
    while (container.children.length > parts.length) container.lastElementChild.remove();
}

function codeBlock() {
    const node = element("div", "code");
    const bar = element("div", "bar");
    bar.append(element("span"), button("Copy", "Copy code", (it) => copy(node.source, it)));
    const frame = element("pre");
    frame.tabIndex = 0;
    frame.append(element("code"));
    node.append(bar, frame);
    return node;
}

/** `code` and **strong** words of a paragraph. */
function inline(text) {
    return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).filter(Boolean).map((part) => {
        if (/^`[^`]+`$/.test(part)) return element("code", "", part.slice(1, -1));
        if (/^\*\*[^*]+\*\*$/.test(part)) return element("strong", "", part.slice(2, -2));
        return document.createTextNode(part);
    });
}

/** Puts a text into the clipboard and says so on the button. */
async function copy(text, node) {
    let done = false;
    try {
        await navigator.clipboard.writeText(text);
        done = true;
    } catch {
        // Browsers give the clipboard to pages of this machine and of https only.
        const area = element("textarea", "hidden", text);
        node.after(area);
        area.select();
        done = document.execCommand("copy");
        area.remove();
    }
    const before = node.textContent;
    if (before === "Copied" || before === "Failed") return;
    node.textContent = done ? "Copied" : "Failed";
    announce(done ? "Copied" : "The browser does not allow copying");
    setTimeout(() => { node.textContent = before; }, 1500);
}

/** Tells those who hear the page. */
function announce(text) {
    document.getElementById("status").textContent = text;
}
