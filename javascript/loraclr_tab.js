/* The merge tab in the browser: what is chosen, what is asked of the server, and live progress. All HTML comes from there. */
"use strict";

/**
 * A chosen LoRA, its card's fields as typed, as `lib_loraclr/frontends/tab/choices.py` reads and completes them.
 * @typedef {{name: string, [field: string]: string | undefined}} Choice
 *
 * What the page keeps of the last merge.
 * @typedef {{
 *   name: string, prompt: string, concepts: MergedConcept[], report: boolean, measured: boolean, again: boolean
 * }} MergeResult
 *
 * A line of the list once its file was read: its inside, and why it cannot be chosen.
 * @typedef {{html: string, reason: string, recipe: boolean}} Row
 */

var loraclrTab = (() => {
    const POLL_MS = 500;
    const QUIET_MS = 350;
    const BATCH = 24;
    const CARD_FIELDS = ["weight", "te_weight", "kind", "trigger", "class_word", "prompts"];

    const {app, input, write} = loraclrBridge;
    const bridge = new loraclrBridge.Bridge("loraclr_tab");
    const state = {
        /** @type {Choice[]} in the order in which they were chosen */
        chosen: [],
        task: "", // of the job that runs, or ran last
        /** @type {MergeResult | null} */
        result: null,
        reveal: "", // the file to bring into view
        followed: false, // whether this page has seen the last job run
        following: false,
        reading: false, // whether files of rows in view are being read
        /** @type {Map<string, HTMLElement>} */
        rows: new Map(),
        /** @type {Set<string>} rows whose files are to be read */
        wanted: new Set(),
        /** @type {Set<string>} rows whose files were read */
        known: new Set(),
        /** @type {((values: Json) => void)[]} who waits for the settings */
        gathering: [],
        spread: 0, // how often settings were put into the controls
    };

    /** @returns {HTMLElement | null} */
    const root = () => app().querySelector("#loraclr_tab");

    /**
     * @param {string} selector
     * @returns {HTMLElement | null}
     */
    const find = (selector) => root()?.querySelector(selector) ?? null;

    /**
     * @param {string} selector
     * @returns {HTMLElement[]}
     */
    const all = (selector) => [...(root()?.querySelectorAll(selector) ?? [])].filter((node) => node instanceof HTMLElement);

    /**
     * A field of our own HTML.
     * @param {string} selector
     * @param {ParentNode | null} within
     * @returns {HTMLInputElement | null}
     */
    const field = (selector, within = root()) => within?.querySelector(selector) ?? null;

    /**
     * @param {string} id
     * @returns {HTMLButtonElement | null}
     */
    const button = (id) => root()?.querySelector(`#${id}`) ?? null;

    /**
     * @param {Element} node
     * @param {string} selector
     * @returns {HTMLElement | null}
     */
    const closest = (node, selector) => node.closest(selector);

    /**
     * @param {number} wait
     * @param {() => void} action
     */
    function quiet(wait, action) {
        let timer = 0;
        return () => {
            clearTimeout(timer);
            timer = setTimeout(action, wait);
        };
    }

    /** @param {number} wait */
    const pause = (wait) => new Promise((resolve) => {
        setTimeout(resolve, wait);
    });

    /**
     * Asks, and puts the panels of the answer in their places; null where a newer question took this one's place.
     * @param {string} name
     */
    async function ask(name, data = {}) {
        const answer = await bridge.ask(name, data);
        if (!answer) return null;
        if (answer.error) say(errorNote(answer.error.message));
        for (const [panel, html] of Object.entries(answer.html || {})) {
            const node = find(`[data-panel="${panel}"]`);
            if (node) node.innerHTML = String(html);
        }
        if (answer.status !== undefined) say(answer.status);
        return answer.error ? null : answer;
    }

    /** @param {string} text */
    function errorNote(text) {
        const line = document.createElement("p");
        line.className = "lct-note lct-error";
        line.setAttribute("role", "alert");
        line.textContent = text;
        return line.outerHTML;
    }

    // ---- settings ------------------------------------------------------------------------------------------------

    /** The values of gradio's controls by name. Pressing the hidden button makes gradio hand them to `gathered`. */
    function settings() {
        return new Promise((resolve) => {
            state.gathering.push(resolve);
            button("loraclr_gather")?.click();
        });
    }

    /**
     * @param {string[]} names
     * @param {any} values
     */
    function gathered(names, values) {
        const byName = Object.fromEntries(names.map((/** @type {string} */ name, /** @type {number} */ i) => [name, values[i]]));
        for (const resolve of state.gathering.splice(0)) resolve(byName);
    }

    /**
     * Values by name into gradio's controls, through the hidden text that they listen to.
     * @param {any} values
     */
    function spread(values) {
        const text = input("loraclr_spread");
        if (text && values) write(text, JSON.stringify({...values, change: ++state.spread}));
    }

    // ---- the list ------------------------------------------------------------------------------------------------

    async function open(refresh = false) {
        const said = await ask("open", {refresh});
        if (!said) return;
        state.rows = new Map(all(".lct-item").map((item) => [item.dataset.name ?? "", item]));
        state.known.clear();
        state.wanted.clear();
        state.chosen = state.chosen.filter((choice) => state.rows.has(choice.name));
        const first = find(".lct-row");
        if (first) first.tabIndex = 0;
        mark();
        filter();
        watchRows();
        reveal();
        show("loraclr_folder", Boolean(said.folder));
        show("loraclr_insert", Boolean(app().querySelector("#txt2img_prompt textarea")));
        show("loraclr_regional", typeof loraclrRegional !== "undefined" && typeof loraclrRegional.receive === "function");
        if (said.task) follow(said.task);
        else if (said.done && !state.result) finish();
        if (state.chosen.length) sync();
    }

    /**
     * @param {string} id
     * @param {boolean} visible
     */
    function show(id, visible) {
        const node = find("#" + id);
        if (node) node.classList.toggle("lct-off", !visible);
    }

    function watchRows() {
        const list = find("#loraclr_list");
        if (!list) return;
        const seen = new IntersectionObserver((entries) => {
            for (const entry of entries) {
                if (!entry.isIntersecting) continue;
                seen.unobserve(entry.target);
                if (entry.target instanceof HTMLElement) want(entry.target.dataset.name ?? "");
            }
        }, {root: list, rootMargin: "300px"});
        for (const item of state.rows.values()) seen.observe(item);
    }

    /** The file that a merge has just written comes into view. */
    function reveal() {
        const item = state.rows.get(state.reveal);
        state.reveal = "";
        const list = find("#loraclr_list");
        if (!item || !list) return;
        want(item.dataset.name ?? "");
        list.scrollTop += item.getBoundingClientRect().top - list.getBoundingClientRect().top - list.clientHeight / 2;
    }

    /** @param {string} name */
    function want(name) {
        if (!state.known.has(name)) state.wanted.add(name);
        wantSoon();
    }

    const wantSoon = quiet(60, () => readWanted());

    /** What is inside the files of the rows in view, a few at a time. */
    async function readWanted() {
        if (state.reading) return;
        state.reading = true;
        while (state.wanted.size) {
            const names = [...state.wanted].slice(0, BATCH);
            names.forEach((name) => {
                state.wanted.delete(name); state.known.add(name);
            });
            const said = await ask("details", {names});
            for (const [name, row] of Object.entries(said?.rows ?? {})) fill(name, row);
            mark();
            filter();
            if (!state.wanted.size && usableOnly()) {
                for (const name of state.rows.keys()) if (!state.known.has(name)) state.wanted.add(name);
            }
        }
        state.reading = false;
    }

    /** @param {HTMLElement} item */
    const option = (item) => /** @type {HTMLElement} */ (item.querySelector(".lct-row"));

    /**
     * @param {string} name
     * @param {Row} row
     */
    function fill(name, row) {
        const item = state.rows.get(name);
        if (!item) return;
        const line = option(item);
        line.innerHTML = row.html;
        if (row.reason) line.setAttribute("aria-disabled", "true");
        else line.removeAttribute("aria-disabled");
        if (row.recipe && !item.querySelector(".lct-use-recipe")) {
            const button = document.createElement("button");
            button.type = "button";
            button.className = "lct-use-recipe";
            button.textContent = "Load recipe";
            item.append(button);
        }
    }

    const usableOnly = () => Boolean(field("#loraclr_usable")?.checked);

    function filter() {
        const words = (field("#loraclr_search")?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
        let shown = 0;
        for (const item of state.rows.values()) {
            const off = usableOnly() && item.querySelector("[aria-disabled]");
            item.hidden = Boolean(off) || !words.every((/** @type {string} */ word) => item.dataset.search?.includes(word));
            if (!item.hidden) shown += 1;
        }
        const count = find("#loraclr_count");
        if (count) count.textContent = words.length || usableOnly() ? `${shown} / ${state.rows.size}` : `${state.rows.size}`;
    }

    /** Which rows are chosen, and in which order. */
    function mark() {
        const place = new Map(state.chosen.map((choice, index) => [choice.name, index + 1]));
        for (const [name, item] of state.rows) {
            option(item).setAttribute("aria-selected", String(place.has(name)));
            const tick = item.querySelector(".lct-tick");
            if (tick) tick.textContent = String(place.get(name) ?? "");
        }
    }

    /** @param {HTMLElement} item */
    function toggle(item) {
        const name = item.dataset.name ?? "";
        const chosen = state.chosen.some((choice) => choice.name === name);
        if (option(item).getAttribute("aria-disabled") && !chosen) return;
        collect();
        state.chosen = chosen ? state.chosen.filter((choice) => choice.name !== name) : [...state.chosen, {name}];
        mark();
        sync();
    }

    // ---- the cards -----------------------------------------------------------------------------------------------

    /** What the cards' fields say now, into the state. */
    function collect() {
        for (const card of all(".lct-card")) {
            const choice = state.chosen.find((one) => one.name === card.dataset.name);
            if (!choice) continue;
            for (const name of CARD_FIELDS) choice[name] = field(`[data-field="${name}"]`, card)?.value ?? choice[name];
        }
    }

    /** Cards, interference and costs of what is chosen now. */
    async function sync() {
        collect();
        const said = await ask("cards", {choices: state.chosen});
        if (!said) return;
        for (const choice of said.choices) {
            const mine = state.chosen.find((one) => one.name === choice.name);
            if (mine && mine.kind === undefined) Object.assign(mine, choice);
        }
        ask("matrix", {choices: state.chosen});
        costs();
    }

    const costs = quiet(QUIET_MS, async() => {
        const values = await settings();
        collect();
        ask("costs", {choices: state.chosen, values});
    });

    // ---- jobs ----------------------------------------------------------------------------------------------------

    /**
     * Starts a job ("merge" or "preview") with everything that is chosen and set.
     * @param {string} job
     */
    async function start(job) {
        const random = new Uint32Array(3);
        crypto.getRandomValues(random);
        state.task = `task(${[...random].map((number) => number.toString(36)).join("")})`;
        busy(true);
        const values = await settings();
        collect();
        const said = await ask(job, {choices: state.chosen, task: state.task, values});
        if (said && said.started) follow(said.task);
        else if (!state.following) busy(false);
    }

    /** @param {boolean} running */
    function busy(running) {
        for (const id of ["loraclr_generate", "loraclr_again", "loraclr_preview"]) {
            const starter = button(id);
            if (starter) starter.disabled = running;
        }
        const cancel = find("#loraclr_interrupt");
        if (cancel) cancel.style.display = running ? "flex" : "none";
        const merge = find("#loraclr_generate");
        if (merge) merge.style.display = running ? "none" : "flex";
    }

    /**
     * Shows a job's progress until it ends, and then what came of it.
     * @param {string} task
     */
    async function follow(task) {
        state.task = task;
        busy(true);
        progress({phase: "", state: "waiting"});
        const host = find("#loraclr_hostbar");
        if (host && typeof requestProgress === "function" && !host.dataset.task) {
            host.dataset.task = task;
            host.closest(".lct-progress")?.classList.add("lct-hosted");
            requestProgress(task, host, null, () => {
                delete host.dataset.task;
            }, null, 3600);
        }
        state.followed = true;
        if (state.following) return;
        state.following = true;
        for (let said = null; !said || said.error || said.running;) {
            await pause(POLL_MS);
            said = await bridge.ask("poll", {task: state.task});
            if (said && said.running) progress(said);
        }
        state.following = false;
        const panel = find("#loraclr_progress");
        if (panel) panel.hidden = true;
        finish();
    }

    /** @param {Json} said */
    function progress(said) {
        const panel = find("#loraclr_progress");
        if (!panel) return;
        panel.hidden = false;
        const percent = Math.round(1000 * (said.fraction || 0)) / 10;
        find(".lct-track")?.setAttribute("aria-valuenow", String(percent));
        find(".lct-track span")?.style.setProperty("width", `${percent}%`);
        /**
         * @param {string} name
         * @param {string} text
         */
        const part = (name, text) => {
            const node = panel.querySelector(`[data-part="${name}"]`);
            if (node && node.textContent !== text) node.textContent = text;
        };
        part("phase", said.phase || (said.state === "waiting" ? "Waiting for its turn" : "Starting"));
        part("step", said.steps ? `${said.step} / ${said.steps}` : "");
        part("left", said.left ? `· ${percent.toFixed(0)} % · ${said.left} left` : percent ? `· ${percent.toFixed(0)} %` : "");
        part("text", said.text ? `· ${said.text}` : "");
    }

    async function cancel() {
        await ask("cancel");
        const node = find('#loraclr_progress [data-part="text"]');
        if (node) node.textContent = "· Stopping …";
    }

    async function finish() {
        const name = input("loraclr_name");
        const said = await ask("finish", {name: name ? name.value : ""});
        busy(false);
        if (!said) return;
        spread(said.values);
        const before = state.result;
        const followed = state.followed; // a page that only finds an old result shows it, but stays where it is
        state.followed = false;
        state.result = said.result || null;
        show("loraclr_after", Boolean(state.result));
        show("loraclr_again", Boolean(state.result && state.result.again));
        show("loraclr_save", Boolean(state.result && state.result.report));
        show("loraclr_preview_row", Boolean(state.result && state.result.measured));
        if (followed && state.result && JSON.stringify(before) !== JSON.stringify(state.result)) {
            refreshEverywhere(state.result.name);
            const panel = find(".lct-result");
            if (panel) panel.scrollIntoView({block: "nearest"});
        }
        costs();
    }

    /**
     * The new file in our list and in the WebUI's galleries.
     * @param {string} name
     */
    function refreshEverywhere(name) {
        state.reveal = name;
        open(true);
        for (const tab of ["txt2img", "img2img"]) {
            const refresh = app().querySelector(`#${tab}_lora_extra_refresh_internal`);
            if (refresh instanceof HTMLElement) refresh.click();
        }
    }

    /** @param {string} html */
    function say(html) {
        const node = find("#loraclr_status");
        if (node) node.innerHTML = html;
    }

    // ---- after a merge -------------------------------------------------------------------------------------------

    function insert() {
        const prompt = input("txt2img_prompt");
        if (!prompt || !state.result) return;
        write(prompt, [prompt.value.trim(), state.result.prompt].filter(Boolean).join(", "));
        if (typeof switch_to_txt2img === "function") switch_to_txt2img();
    }

    function regional() {
        if (!state.result || typeof loraclrRegional === "undefined" || !loraclrRegional.receive) return;
        loraclrRegional.receive({lora: state.result.name, concepts: state.result.concepts});
        if (typeof switch_to_txt2img === "function") switch_to_txt2img();
    }

    /** @param {string} name */
    async function useRecipe(name) {
        const said = await ask("recipe", {name});
        if (!said || !said.choices) return;
        all(".lct-card").forEach((card) => card.remove());
        state.chosen = said.choices;
        spread(said.values);
        mark();
        sync();
    }

    async function save() {
        const said = await ask("report");
        if (!said || !said.page || !state.result) return;
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([said.page], {type: "text/html"}));
        link.download = `${state.result.name}.report.html`;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    }

    /** @param {HTMLElement} button */
    function copy(button) {
        const source = find("#" + button.dataset.copy);
        if (!source) return;
        const done = () => {
            const before = button.textContent;
            button.textContent = "Copied";
            setTimeout(() => {
                button.textContent = before;
            }, 1200);
        };
        if (navigator.clipboard) navigator.clipboard.writeText(source.textContent).then(done, () => {});
    }

    // ---- events --------------------------------------------------------------------------------------------------

    /** What gradio's buttons do, by their id. */
    /** @type {Record<string, () => void>} */
    const BUTTONS = {
        loraclr_refresh: () => open(true),
        loraclr_generate: () => start("merge"),
        loraclr_again: () => start("merge"),
        loraclr_preview: () => start("preview"),
        loraclr_interrupt: cancel,
        loraclr_insert: insert,
        loraclr_regional: regional,
        loraclr_recipe: () => state.result && useRecipe(state.result.name),
        loraclr_save: save,
        loraclr_folder: () => ask("folder"),
    };

    /** @param {Event} event */
    function clicked(event) {
        const target = event.target;
        if (!(target instanceof Element)) return;
        const action = BUTTONS[target.closest("button")?.id ?? ""];
        if (action) {
            action();
            return;
        }
        const row = target.closest(".lct-row");
        const item = closest(target, ".lct-item");
        const card = closest(target, ".lct-card");
        const copied = closest(target, ".lct-copy");
        const tag = target.closest(".lct-tag");
        if (item && target.closest(".lct-use-recipe")) {
            useRecipe(item.dataset.name ?? "");
        } else if (item && row) {
            toggle(item);
        } else if (card && target.closest(".lct-remove")) {
            collect();
            state.chosen = state.chosen.filter((choice) => choice.name !== card.dataset.name);
            mark();
            sync();
        } else if (card && tag) {
            toggleTag(card, tag.textContent ?? "");
        } else if (copied) {
            copy(copied);
        } else if (target.closest("#loraclr_settings")) {
            costs();
        }
    }

    /**
     * Puts a tag of the file into the card's trigger, or takes it out.
     * @param {HTMLElement} card
     * @param {string} word
     */
    function toggleTag(card, word) {
        const trigger = field('[data-field="trigger"]', card);
        if (!trigger) return;
        const words = trigger.value.split(",").map((part) => part.trim()).filter(Boolean);
        trigger.value = (words.includes(word) ? words.filter((part) => part !== word) : [...words, word]).join(", ");
        collect();
        costs();
    }

    /** @param {Event} event */
    function edited(event) {
        const target = event.target;
        if (!(target instanceof HTMLElement)) return;
        if (target.id === "loraclr_search") {
            filter();
        } else if (target.id === "loraclr_usable") {
            filter();
            if (usableOnly()) for (const name of state.rows.keys()) want(name);
        } else if (target.closest(".lct-card")) {
            collect();
            if (target.dataset.field === "kind") sync();
            else costs();
        } else if (target.closest("#loraclr_settings")) {
            costs();
        }
    }

    /** @param {any} event */
    function pressed(event) {
        const row = closest(event.target, ".lct-row");
        if (row && !event.ctrlKey && !event.metaKey && !event.altKey) {
            rowKey(event, row);
        } else if (event.target.id === "loraclr_search") {
            searchKey(event);
        } else if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && !hosted()) {
            event.preventDefault();
            button("loraclr_generate")?.click();
        }
    }

    /** Whether the WebUI's own Ctrl+Enter presses buttons by the ends of their ids. */
    const hosted = () => typeof get_uiCurrentTabContent === "function";

    /**
     * @param {any} event
     * @param {HTMLElement} row
     */
    function rowKey(event, row) {
        const rows = all(".lct-item:not([hidden]) .lct-row");
        const at = rows.indexOf(row);
        /** @type {Record<string, number>} */
        const steps = {ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1, PageDown: at + 8, PageUp: at - 8};
        const to = steps[event.key];
        if (to !== undefined) {
            event.preventDefault();
            if (to < 0 && event.key === "ArrowUp") {
                find("#loraclr_search")?.focus();
                return;
            }
            focusRow(rows[Math.min(Math.max(to, 0), rows.length - 1)]);
        } else if (event.key === " " || event.key === "Enter") {
            event.preventDefault();
            toggle(/** @type {HTMLElement} */ (row.closest(".lct-item")));
        }
    }

    /** @param {HTMLElement} row */
    function focusRow(row) {
        if (!row) return;
        all('.lct-row[tabindex="0"]').forEach((other) => {
            other.tabIndex = -1;
        });
        row.tabIndex = 0;
        row.focus();
        row.scrollIntoView({block: "nearest"});
    }

    /** @param {any} event */
    function searchKey(event) {
        const first = find(".lct-item:not([hidden]) .lct-row");
        if (event.key === "ArrowDown" && first) {
            event.preventDefault();
            focusRow(first);
        } else if (event.key === "Enter" && first && event.target.value) {
            event.preventDefault();
            toggle(/** @type {HTMLElement} */ (first.closest(".lct-item")));
        } else if (event.key === "Escape" && event.target.value) {
            event.stopPropagation();
            event.target.value = "";
            filter();
        }
    }

    function mount() {
        const node = root();
        if (!node || node.dataset.mounted) return;
        node.dataset.mounted = "yes";
        watcher.disconnect();
        node.addEventListener("click", clicked);
        node.addEventListener("input", edited);
        node.addEventListener("change", (event) => {
            if (event.target instanceof Element && event.target.matches("select, [type=checkbox], [type=radio]")) edited(event);
        });
        node.addEventListener("keydown", pressed);
        busy(false);
        // Nothing is asked, and so nothing read from disk, before the tab is seen.
        new IntersectionObserver((entries, seen) => {
            if (!entries.some((entry) => entry.isIntersecting)) return;
            seen.disconnect();
            open();
        }).observe(node);
    }

    const watcher = new MutationObserver(mount);
    watcher.observe(document.documentElement, {childList: true, subtree: true});
    mount();

    return {gathered};
})();
