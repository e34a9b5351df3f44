/* The regional prompter's panel: puts canvas, cards and settings together and keeps them in step with gradio. */
"use strict";

/**
 * What the server puts into the page for a panel (frontends/panel/form.py and panel.py).
 * @typedef {{name: string, own: boolean, spec: Json}} Preset
 * @typedef {{
 *   tab: string, ids: {enabled: string, spec: string}, endpoint: string, defaults: Defaults, colours: string[],
 *   oldNames: {spec: OldNames, region: OldNames}, maxRegions: number, subjectsSeparateUntil: number, regionFields: Rule[], groups: {label: string, fields: Rule[]}[],
 *   presets: Preset[], concepts: Concept[]
 * }} PanelConfig
 */

var loraclrRegional = loraclrRegional || {};

loraclrRegional.panel = (() => {
    const R = loraclrRegional;
    const {el, iconButton, wordButton, popup, debounce} = R.dom;
    const {field} = R.fields;
    const WIDE = 720;
    const SIZE_MS = 700;
    /** @type {Map<string, Panel>} */
    const panels = new Map();
    /** @type {[ToolName, string][]} */
    const TOOLS = [
        ["select", "Select and move (V)"], ["box", "Draw a box (B)"], ["polygon", "Draw a polygon (P)"],
        ["lasso", "Draw an outline freehand; adds to a painted region (L)"], ["brush", "Paint (D)"], ["eraser", "Erase (E)"],
    ];

    class Panel {
        /**
         * @param {HTMLElement} root
         * @param {PanelConfig} config
         */
        constructor(root, config) {
            this.root = root;
            this.config = config;
            this.tab = config.tab;
            /** @type {Concept[]} */
            this.sent = []; // concepts that the merge tab has sent
            this.bridge = new loraclrBridge.Bridge(config.endpoint);
            this.written = ""; // what the hidden spec text holds as far as this panel knows
            /** @type {RegionalDocument} */
            this.document = new R.document.RegionalDocument(config, (source) => this.changed(source));
            this.note = "";
            this.foreign = ""; // the layout for which the server was asked to draw shapes
            this.surface = el("canvas", {"class": "loraclr-canvas", "tabindex": "0", "role": "application", "aria-label": "Picture with regions; the list of regions holds the same as fields"});
            this.toolButtons = TOOLS.map(([name, label]) => iconButton(name, label, () => this.pickTool(name), {"data-tool": name}));
            this.brush = this.brushField();
            this.undo = iconButton("undo", "Undo (Ctrl+Z)", () => this.canvas.undo());
            this.redo = iconButton("redo", "Redo (Ctrl+Shift+Z)", () => this.canvas.redo());
            this.snap = iconButton("snap", "Snap to edges, thirds and other regions", () => this.toggle(this.snap, (this.canvas.snap = !this.canvas.snap)));
            this.map = wordButton("map", "Weights", "Show the exact weights that sampling uses", () => this.showMap(this.maps.hidden));
            this.problem = el("div", {class: "loraclr-problem", role: "alert", hidden: true});
            this.status = el("div", {class: "loraclr-status"});
            this.live = el("div", {"class": "loraclr-live", "role": "status", "aria-live": "polite"});
            this.maps = el("div", {class: "loraclr-maps", hidden: true});
            this.stage = el("div", {class: "loraclr-stage"}, this.surface, this.status);
            this.cards = new R.cards.RegionCards(this);
            this.settingFields = config.groups.map(({fields}) => fields.map((rule) => field(rule, (value) => this.document.set(rule.key, value, rule.key))));
            this.askTokens = debounce(() => this.refreshTokens(), 500);
            this.askCheck = debounce(() => this.refreshCheck(), 400);
            this.askMap = debounce(() => this.refreshMap(), 250);
            this.root.replaceChildren(this.bar(), el("div", {class: "loraclr-main"}, this.stage, this.cards.node), this.problem, this.maps, this.settings(), this.live);
            /** @type {RegionalView} */
            this.view = new R.view.RegionalView(this.surface, this.document);
            /** @type {RegionalCanvas} */
            this.canvas = new R.canvas.RegionalCanvas(this.surface, this.document, this.view, {
                message: (text) => this.say(text),
                toolChanged: (name) => this.toolChanged(name),
                opened: (region) => this.cards.focusPrompt(region.id),
                drawn: () => this.cards.reveal(),
            });
            this.canvas.setTool("box");
            this.toggle(this.snap, true);
            this.watch();
            R.mask.readers.add(() => this.changed("read"));
            this.readSize();
            this.load(loraclrBridge.input(config.ids.spec)?.value ?? "", {history: false});
        }

        /** @returns {Field} */
        brushField() {
            /** @type {Rule} */
            const rule = {key: "brush", kind: "number", label: "Brush", help: "Diameter in percent of the picture's shorter side.", low: 0.5, high: 60, step: 0.5};
            const brush = field(rule, (value) => {
                this.canvas.setBrush(value / 100);
                brush.refresh(value);
            });
            brush.node.classList.add("loraclr-brush");
            return brush;
        }

        bar() {
            /**
             * @param {"grid" | "presets" | "picture" | "help"} icon
             * @param {string} word
             * @param {string} label
             * @param {(panel: Panel, content: HTMLElement, close: () => void) => void} fill
             */
            const menu = (icon, word, label, fill) => popup(word ? wordButton(icon, word, label, null) : iconButton(icon, label, null), label, (content, close) => fill(this, content, close));
            /** @param {Node[]} nodes */
            const group = (...nodes) => el("div", {class: "loraclr-group"}, ...nodes);
            return el(
                "div",
                {"class": "loraclr-bar", "role": "toolbar", "aria-label": "Tools"},
                group(...this.toolButtons),
                this.brush.node,
                group(this.undo, this.redo),
                group(
                    menu("grid", "Grid", "Divide the picture", R.menus.gridMenu),
                    menu("presets", "Layouts", "Layouts, import and export", R.menus.layoutMenu),
                    menu("picture", "", "Picture behind the regions", R.menus.pictureMenu),
                ),
                group(
                    this.snap,
                    iconButton("fit", "Whole picture (0)", () => this.view.fit()),
                    this.map,
                    menu("help", "", "Keys and gestures", R.menus.helpMenu),
                ),
            );
        }

        settings() {
            const groups = this.config.groups.map(({label}, i) => (
                el("fieldset", {}, el("legend", {}, label), ...this.settingFields[i].map((one) => one.node))
            ));
            return el("details", {class: "loraclr-settings"}, el("summary", {}, "Settings of the whole layout"), ...groups);
        }

        watch() {
            new ResizeObserver(() => {
                this.root.classList.toggle("loraclr-wide", this.root.clientWidth >= WIDE);
                this.fitStage();
            }).observe(this.root);
            this.surface.addEventListener("dragover", (event) => event.preventDefault());
            this.surface.addEventListener("drop", (event) => this.takeFiles(event, event.dataTransfer?.files));
            this.surface.addEventListener("paste", (event) => this.takeFiles(event, event.clipboardData?.files));
            // the host sets its size sliders without events (swap, presets), so they are read, while the panel is seen
            let timer = 0;
            new IntersectionObserver(([entry]) => {
                clearInterval(timer);
                if (!entry.isIntersecting) return;
                timer = setInterval(() => this.readSize(), SIZE_MS);
                this.refreshConcepts();
            }).observe(this.root);
            new MutationObserver(() => this.view.request()).observe(document.body, {attributes: true, attributeFilter: ["class"]});
        }

        /** Height of the stage from the picture's shape, so that little of the frame stays empty. */
        fitStage() {
            const width = this.stage.clientWidth;
            if (!width) return;
            const {width: w, height: h} = this.document;
            const height = Math.round(Math.min(Math.max(260, ((width - 28) * h) / w + 28), 560, 0.75 * window.innerHeight + 60));
            this.surface.style.height = `${height}px`;
            this.cards.node.style.maxHeight = this.root.classList.contains("loraclr-wide") ? `${Math.max(height + this.status.offsetHeight, 320)}px` : "";
            this.view.resize();
        }

        /** Takes the picture's size from the host's sliders. */
        readSize() {
            /** @param {"width" | "height"} name */
            const read = (name) => {
                const box = loraclrBridge.app().querySelector(`#${this.tab}_${name} input[type=number]`);
                return box instanceof HTMLInputElement && Number(box.value) > 0 ? Number(box.value) : this.document[name];
            };
            const [width, height] = [read("width"), read("height")];
            if (width === this.document.width && height === this.document.height) return;
            Object.assign(this.document, {width, height});
            this.fitStage();
            this.refreshStatus();
            this.askMap();
        }

        /** @param {ToolName} name */
        pickTool(name) {
            this.canvas.setTool(name);
            this.surface.focus({preventScroll: true});
        }

        /** @param {string} name */
        toolChanged(name) {
            for (const button of this.toolButtons) this.toggle(button, button.dataset.tool === name);
            this.brush.node.hidden = name !== "brush" && name !== "eraser";
            this.brush.refresh(Math.round(1000 * (this.canvas || {brush: 0.06}).brush) / 10);
        }

        /**
         * @param {HTMLButtonElement} button
         * @param {boolean} on
         */
        toggle(button, on) {
            button.setAttribute("aria-pressed", String(on));
        }

        /** @param {string} text */
        say(text) {
            this.note = text;
            this.live.textContent = text;
            this.refreshStatus();
        }

        /**
         * The spec into the hidden text, for the next generation.
         * @param {string} text
         */
        putSpec(text) {
            const element = loraclrBridge.input(this.config.ids.spec);
            if (!element || text === this.written) return;
            this.written = text;
            loraclrBridge.write(element, text);
        }

        /**
         * The hidden text was set from elsewhere (pasted parameters, "send to"), or by this panel.
         * @param {string} text
         */
        specChanged(text) {
            if (text === this.written) return;
            this.written = text;
            this.load(text || "", {source: "server"});
        }

        /**
         * Replaces the layout; shows a problem rather than losing what is there.
         * @param {string} text
         */
        load(text, options = {}) {
            const problem = this.document.load(text, options);
            if (problem) this.showProblem(problem);
            return !problem;
        }

        /**
         * Everything that follows a change of the layout. `gesture` is a change that is still going on.
         * @param {string} source
         */
        changed(source) {
            if (!this.view) return;
            this.view.request();
            if (source === "gesture") {
                this.refreshStatus();
                return;
            }
            this.cards.refresh();
            if (source !== "update" && source !== "read") this.cards.reveal();
            for (const one of this.settingFields.flat()) one.refresh(one.rule.key.split(".").reduce((/** @type {any} */ owner, /** @type {string} */ key) => owner[key], this.document.spec));
            this.undo.disabled = !this.document.undoStack.length;
            this.redo.disabled = !this.document.redoStack.length;
            this.note = "";
            this.refreshStatus();
            if (source === "selection" || source === "read") return;
            if (source !== "server") this.putSpec(this.document.text());
            const region = this.document.region();
            if (region && source !== "load") this.live.textContent = `Region ${this.document.regions.indexOf(region) + 1}: ${R.cards.describe(this.document, region)}`;
            if (this.document.regions.some(({shape}) => !R.document.drawable(shape) && !R.mask.isPending(shape))) this.redrawForeign();
            this.askTokens();
            this.askCheck();
            this.askMap();
        }

        refreshStatus() {
            const {width, height, regions} = this.document;
            const region = this.document.region();
            const count = `${regions.length} ${regions.length === 1 ? "region" : "regions"}`;
            const selected = region && !region.shape.live ? `${this.document.regions.indexOf(region) + 1}: ${R.cards.describe(this.document, region)}` : "";
            this.status.replaceChildren(el("span", {}, `${width} × ${height}`), el("span", {}, count), el("span", {}, this.note || selected));
        }

        /** @param {string} text */
        showProblem(text) {
            this.problem.hidden = !text;
            this.problem.textContent = text || "";
        }

        /** The server's parser is the judge: its first complaint is shown above the canvas. */
        async refreshCheck() {
            const answer = await this.bridge.ask("validate", {spec: this.document.text()});
            if (!answer) return;
            /** @type {{message: string}[]} */
            const problems = answer.error ? [answer.error] : answer.problems || [];
            this.showProblem(problems.map(({message}) => message).slice(0, 3).join(" "));
        }

        /** Shapes that only the server can draw (a grid, a mask of version 0.1.0) come back as boxes and PNGs. */
        async redrawForeign() {
            const text = this.document.text();
            if (text === this.foreign) return;
            this.foreign = text;
            const answer = await this.bridge.ask("validate", {spec: text});
            if (answer && answer.spec && this.document.text() === text && !(answer.problems || []).length) this.load(JSON.stringify(answer.spec), {source: "layout", history: false});
        }

        async refreshTokens() {
            const texts = this.document.regions.map((/** @type {Region} */ region) => region.prompt);
            if (!texts.length) return;
            const ids = this.document.regions.map((/** @type {Region} */ region) => region.id);
            const answer = await this.bridge.ask("tokens", {texts});
            if (!answer || !answer.counts) return;
            answer.counts.forEach((/** @type {[number, number]} */ [count, room], /** @type {number} */ i) => {
                const card = this.cards.cards.get(ids[i]);
                if (card) card.setTokens(count, room);
            });
        }

        /** @param {boolean} on */
        showMap(on) {
            this.maps.hidden = !on;
            this.toggle(this.map, on);
            if (on) this.refreshMap();
        }

        async refreshMap() {
            if (this.maps.hidden) return;
            const {width, height} = this.document;
            const answer = await this.bridge.ask("preview", {spec: this.document.text(), width, height});
            if (!answer) return;
            if (answer.error) {
                this.maps.replaceChildren(el("p", {}, answer.error.message));
                return;
            }
            /** @type {{label: string, png: string}[]} */
            const maps = answer.maps;
            this.maps.replaceChildren(...maps.map(({label, png}) => (
                el("figure", {}, el("img", {src: png, alt: `Weights at ${label}`}), el("figcaption", {}, label))
            )));
        }

        /**
         * A ready-made layout: its boxes take the present prompts in order.
         * @param {Json} spec
         */
        applyLayout(spec) {
            const prompts = this.document.regions.map(({prompt, negative, name, concept, negative_mode}) => ({prompt, negative, name, concept, negative_mode}));
            const regions = (spec.regions || []).map((/** @type {Region} */ region, /** @type {number} */ i) => (region.prompt ? region : {...region, ...prompts[i]}));
            this.load(JSON.stringify({...spec, regions}), {source: "layout"});
            this.canvas.setTool("select");
        }

        /** @param {Json} spec */
        previewBoxes(spec) {
            return (spec.regions || []).filter((/** @type {Region} */ region) => R.document.drawable(region.shape)).map((/** @type {Region} */ region) => this.document.boundsOf(region)).filter(Boolean);
        }

        /**
         * The concepts that regions can be given, of all merged files.
         * @param {Concept[]} concepts
         */
        setConcepts(concepts) {
            this.config.concepts = concepts;
            this.cards.refresh();
        }

        /** Files may have been merged since the page was made. */
        async refreshConcepts() {
            const answer = await this.bridge.ask("concepts");
            if (!answer || !answer.concepts) return;
            const sent = this.sent.filter(({file}) => !answer.concepts.some((/** @type {any} */ one) => one.file === file));
            const concepts = [...answer.concepts, ...sent];
            if (JSON.stringify(concepts) !== JSON.stringify(this.config.concepts)) this.setConcepts(concepts);
        }

        /**
         * The picture's own prompt of an import; what the user has written stays unless it is the imported text itself.
         * @param {string} prompt
         * @param {string} imported
         */
        takePrompt(prompt, imported) {
            const main = loraclrBridge.input(`${this.tab}_prompt`);
            if (prompt && main && (!main.value.trim() || main.value.trim() === imported.trim())) loraclrBridge.write(main, prompt);
        }

        /**
         * @param {Event} event
         * @param {FileList | undefined} files
         */
        takeFiles(event, files) {
            const file = [...(files ?? [])].find((one) => one.type.startsWith("image/"));
            if (!file) return;
            event.preventDefault();
            this.setBackground(URL.createObjectURL(file));
        }

        /** @param {(image: HTMLImageElement) => void} done */
        pickFile(done) {
            const chooser = el("input", {type: "file", accept: "image/*"});
            chooser.addEventListener("change", () => {
                const file = chooser.files?.[0];
                if (!file) return;
                const image = new Image();
                image.onload = () => done(image);
                image.onerror = () => this.say("That file is not a picture.");
                image.src = URL.createObjectURL(file);
            });
            chooser.click();
        }

        /** @param {string | null} src */
        setBackground(src) {
            if (!src) {
                this.view.background = null;
                this.view.request();
                return;
            }
            const image = new Image();
            image.onload = () => {
                this.view.background = image;
                this.view.request();
            };
            image.onerror = () => this.say("The picture could not be shown.");
            image.src = src;
        }
    }

    /** Makes the panels of all places that wait for one; harmless when called again. */
    function mount() {
        /** @type {NodeListOf<HTMLElement>} */
        const roots = loraclrBridge.app().querySelectorAll(".loraclr-regional[data-config]:not([data-mounted])");
        for (const root of roots) {
            root.setAttribute("data-mounted", "");
            const config = JSON.parse(root.dataset.config ?? "{}");
            panels.set(config.tab, new Panel(root, config));
        }
    }

    if (typeof onUiLoaded === "function") {
        onUiLoaded(mount);
        onAfterUiUpdate(mount); // a newer gradio may bring parts of the page later
    } else {
        document.addEventListener("DOMContentLoaded", () => new MutationObserver(mount).observe(document.body, {childList: true, subtree: true}));
    }

    return {Panel, mount, panels};
})();

/** The panels by their tab, "txt2img" and "img2img". */
loraclrRegional.panels = loraclrRegional.panel.panels;

/**
 * Gradio calls this when a panel's hidden spec text changes.
 * @param {string} tab
 * @param {string} text
 */
loraclrRegional.specChanged = (tab, text) => loraclrRegional.panels.get(tab)?.specChanged(text);
