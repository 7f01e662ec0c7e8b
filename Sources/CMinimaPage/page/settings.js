// Settings: kept by the browser, the key only until the tab is closed.

const numbers = ["temperature", "top-p", "max-tokens", "seed"];
const settings = { key: "", system: "" };

/** A browser may refuse to keep anything; the page works without. */
function stored(area, name, value) {
    try {
        if (value === undefined) return area().getItem(`minima.${name}`) ?? "";
        if (value === "") area().removeItem(`minima.${name}`);
        else area().setItem(`minima.${name}`, value);
    } catch {
        return "";
    }
    return value;
}

const local = () => localStorage;
const session = () => sessionStorage;

/** Sampling parameters of a request; those left empty are the model's. */
function parameters() {
    const found = {};
    for (const name of numbers) {
        const field = document.getElementById(name);
        if (field.value !== "" && field.validity.valid) {
            found[name.replace("-", "_")] = Number(field.value);
        }
    }
    return found;
}

function setUpSettings() {
    const dialog = document.getElementById("settings");
    const key = document.getElementById("key");
    const system = document.getElementById("system");
    settings.key = key.value = stored(session, "key");
    settings.system = system.value = stored(local, "system");
    document.getElementById("key-field").hidden = !needsKey;
    key.addEventListener("input", () => {
        settings.key = key.value.trim();
        stored(session, "key", settings.key);
    });
    key.addEventListener("change", loadModel);
    system.addEventListener("input", () => {
        settings.system = system.value;
        stored(local, "system", system.value);
    });
    for (const name of numbers) {
        const field = document.getElementById(name);
        field.value = stored(local, name);
        field.addEventListener("input", () => {
            field.setAttribute("aria-invalid", String(!field.validity.valid));
            if (field.validity.valid) stored(local, name, field.value);
        });
    }
    document.getElementById("defaults").addEventListener("click", () => {
        for (const field of [...numbers.map((name) => document.getElementById(name)), system]) {
            field.value = "";
            field.dispatchEvent(new Event("input"));
        }
    });
    document.getElementById("open-settings").addEventListener("click", () => dialog.showModal());
}

/** The name of the model; the server's first word on whether the key is right. */
async function loadModel() {
    if (needsKey && !settings.key) return;
    try {
        const models = await (await request("/v1/models")).json();
        const name = document.getElementById("model");
        name.textContent = name.title = models.data[0].id;
        document.title = `${models.data[0].id} – Minima`;
    } catch {
        // The first answer says why.
        document.getElementById("model").textContent = "";
    }
}
