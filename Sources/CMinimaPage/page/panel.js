// Live figures, from /stats once a second while the page is seen.

const seconds = 60;
const panel = { rates: [], last: null, drafts: [], timer: 0 };

/** Writes a figure in every place that shows it. */
function show(name, text) {
    for (const node of document.querySelectorAll(`[data-figure="${name}"]`)) {
        if (node.textContent !== text) node.textContent = text;
    }
}

/** Three digits or so. */
function rateText(value) {
    if (value === 0) return "0";
    return value >= 100 ? grouped(Math.round(value)) : value.toFixed(1);
}

function grouped(value) {
    return value.toLocaleString("en-US");
}

function secondsText(value) {
    return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

function bytesText(value) {
    const gib = value / 2 ** 30;
    return gib >= 1 ? `${gib.toFixed(gib < 100 ? 2 : 0)} GiB` : `${Math.round(value / 2 ** 20)} MiB`;
}

function percent(part, whole) {
    return whole > 0 ? `${Math.round(100 * part / whole)}%` : "–";
}

/** Shows the figures of the answer on the way, or of the last one. */
function showAnswer(figures) {
    show("answer-rate", figures.rate === null ? "–" : rateText(figures.rate));
    show("first-token", figures.first === null ? "–" : secondsText(figures.first));
    show("answer-tokens", grouped(figures.tokens));
    const { prompt, cached } = figures;
    show("answer-prompt", prompt === null ? "–"
        : `${grouped(prompt)} tokens${cached ? `, ${grouped(cached)} cached` : ""}`);
}

function showHealth(state) {
    const node = document.getElementById("health");
    if (node.dataset.state === state) return;
    node.dataset.state = state;
    node.querySelector("b").textContent = state;
}

async function poll() {
    try {
        const response = await fetch("/stats", { cache: "no-store" });
        if (!response.ok) throw new Error();
        showStats(await response.json(), performance.now() / 1000);
    } catch {
        showHealth("unreachable");
        panel.last = null;
    }
}

function showStats(stats, now) {
    showHealth(stats.status);
    const last = panel.last;
    panel.last = { now, generated: stats.tokens.generated };
    // Counters begin again with the server.
    const made = last ? stats.tokens.generated - last.generated : 0;
    const rate = made > 0 ? made / (now - last.now) : 0;
    panel.rates = [...panel.rates, rate].slice(-seconds);
    show("server-rate", rateText(rate));
    drawRates();

    show("running", grouped(stats.requests.running));
    show("slots", ` of ${grouped(stats.requests.slots)}`);
    show("waiting", grouped(stats.requests.waiting));
    const { cached, prompt } = stats.tokens;
    show("cached", percent(cached, cached + prompt));

    show("pages", `${grouped(stats.pages.used)} of ${grouped(stats.pages.total)}`);
    show("pages-cached", grouped(stats.pages.cached));
    document.getElementById("pages").value = stats.pages.used / Math.max(stats.pages.total, 1);
    const { resident, device } = stats.memory;
    show("resident", resident === null ? "–" : bytesText(resident));
    for (const node of document.querySelectorAll(".device")) node.hidden = device === null;
    if (device) {
        show("device", `${bytesText(device.used)} of ${bytesText(device.total)}`);
        document.getElementById("device").value = device.used / device.total;
    }
    showDraft(stats.draft);
}

/** Acceptance over the last ten seconds with proposals, or since the start. */
function showDraft(draft) {
    document.getElementById("draft").hidden = draft === null;
    if (!draft) return;
    const newest = panel.drafts.at(-1);
    if (newest && newest.rows > draft.rows) panel.drafts = [];
    if (newest?.rows !== draft.rows) panel.drafts = [...panel.drafts, draft].slice(-11);
    const first = panel.drafts.length > 1 ? panel.drafts[0] : {};
    const since = (name) => draft[name] - (first[name] ?? 0);
    const rows = since("rows");
    show("accepted-length", rows > 0 ? (since("tokens") / rows).toFixed(2) : "–");
    show("accepted-share", percent(since("accepted"), since("proposed")));
}

function drawRates() {
    const most = Math.max(...panel.rates, 1);
    const start = seconds - panel.rates.length;
    const points = panel.rates.map(
        (rate, index) => `${start + index},${(19 - 18 * rate / most).toFixed(2)}`);
    const spark = document.getElementById("spark");
    const line = `M${points.join("L")}`;
    spark.querySelector(".line").setAttribute("d", line);
    spark.querySelector(".area").setAttribute("d", `${line}L59,20L${start},20Z`);
    spark.setAttribute(
        "aria-label", `Tokens per second, last minute: at most ${rateText(Math.max(...panel.rates))}`);
}

function setUpPanel() {
    const wide = matchMedia("(min-width: 56rem)");
    const fit = () => { document.getElementById("panel").open = wide.matches; };
    wide.addEventListener("change", fit);
    fit();
    const follow = async () => {
        clearTimeout(panel.timer);
        if (document.hidden) {
            panel.last = null;
            return;
        }
        const begun = performance.now();
        await poll();
        clearTimeout(panel.timer);
        panel.timer = setTimeout(follow, Math.max(1000 - (performance.now() - begun), 100));
    };
    document.addEventListener("visibilitychange", follow);
    follow();
}
