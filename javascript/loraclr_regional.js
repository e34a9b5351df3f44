/* The regional prompter's panel: puts canvas, cards and settings together and keeps them in step with gradio. */
"use strict";

var loraclrRegional = window.loraclrRegional || {};

(() => {
    const R = loraclrRegional;
    const el = (...given) => R.dom.el(...given);
    const iconButton = (...given) => R.dom.iconButton(...given);
    const wordButton = (...given) => R.dom.wordButton(...given);
    const popup = (...given) => R.dom.popup(...given);
    const debounce = (...given) => R.dom.debounce(...given);
    const field = (...given) => R.fields.field(...given);
    const drawable = (...given) => R.document.drawable(...given);
    const describe = (...given) => R.cards.describe(...given);
    const app = (...given) => loraclrBridge.app(...given);
    const WIDE = 720;
    const SIZE_MS = 700;
    const panels = new Map();
    const TOOLS = [
        ["select", "Select and move (V)"], ["box", "Draw a box (B)"], ["polygon", "Draw a polygon (P)"],
        ["lasso", "Draw an outline freehand; adds to a painted region (L)"], ["brush", "Paint (D)"], ["eraser", "Erase (E)"],
    ];

    class Panel {
        constructor(root, config) {
            this.root = root;
            this.config = config;
            this.tab = config.tab;
            this.sent = []; // concepts that the merge tab has sent
            this.bridge = new loraclrBridge.Bridge(config.endpoint);
            this.written = ""; // what the hidden spec text holds as far as this panel knows
            this.document = new R.document.RegionalDocument(config.defaults, config.oldNames, (source) => this.changed(source));
            this.build();
            this.view = new R.view.RegionalView(this.surface, this.document);
            this.canvas = new R.canvas.RegionalCanvas(this.surface, this.document, this.view, {
                message: (text) => this.say(text),
                toolChanged: (name) => this.toolChanged(name),
                opened: (region) => this.cards.focusPrompt(region.id),
                drawn: () => this.cards.reveal(),
            });
            this.canvas.setTool("box");
            this.toggle(this.snap, true);
            this.watch();
            this.readSize();
            this.load(loraclrBridge.input(config.ids.spec)?.value ?? "", {history: false});
        }

        build() {
            this.surface = el("canvas", {class: "loraclr-canvas", tabindex: "0", role: "application", "aria-label": "Picture with regions; the list of regions holds the same as fields"});
            this.toolButtons = TOOLS.map(([name, label]) => iconButton(name, label, () => this.pickTool(name), {"data-tool": name}));
            this.brush = field({key: "brush", kind: "number", label: "Brush", help: "Diameter in percent of the picture's shorter side.", low: 0.5, high: 60, step: 0.5}, (value) => {
                this.canvas.setBrush(value / 100);
                this.brush.refresh(value);
            });
            this.brush.node.classList.add("loraclr-brush");
            this.undo = iconButton("undo", "Undo (Ctrl+Z)", () => this.canvas.undo());
            this.redo = iconButton("redo", "Redo (Ctrl+Shift+Z)", () => this.canvas.redo());
            this.snap = iconButton("snap", "Snap to edges, thirds and other regions", () => this.toggle(this.snap, (this.canvas.snap = !this.canvas.snap)));
            this.map = wordButton("map", "Weights", "Show the exact weights that sampling uses", () => this.showMap(this.maps.hidden));
            const menu = (icon, word, label, fill) => popup(word ? wordButton(icon, word, label, null) : iconButton(icon, label, null), label, (content, close) => fill(this, content, close));
            const group = (...nodes) => el("div", {class: "loraclr-group"}, ...nodes);
            this.bar = el("div", {class: "loraclr-bar", role: "toolbar", "aria-label": "Tools"},
                group(...this.toolButtons), this.brush.node, group(this.undo, this.redo),
                group(menu("grid", "Grid", "Divide the picture", R.menus.gridMenu), menu("presets", "Layouts", "Layouts, import and export", R.menus.layoutMenu), menu("picture", "", "Picture behind the regions", R.menus.pictureMenu)),
                group(this.snap, iconButton("fit", "Whole picture (0)", () => this.view.fit()), this.map, menu("help", "", "Keys and gestures", R.menus.helpMenu)));
            this.problem = el("div", {class: "loraclr-problem", role: "alert", hidden: true});
            this.status = el("div", {class: "loraclr-status"});
            this.live = el("div", {class: "loraclr-live", role: "status", "aria-live": "polite"});
            this.maps = el("div", {class: "loraclr-maps", hidden: true});
            this.stage = el("div", {class: "loraclr-stage"}, this.surface, this.status);
            this.cards = new R.cards.RegionCards(this);
            this.settings = el("details", {class: "loraclr-settings"}, el("summary", {}, "Settings of the whole layout"), ...this.settingGroups());
            this.root.replaceChildren(this.bar, el("div", {class: "loraclr-main"}, this.stage, this.cards.node), this.problem, this.maps, this.settings, this.live);
        }

        settingGroups() {
            this.settingFields = [];
            return this.config.groups.map(({label, fields}) => {
                const nodes = fields.map((rule) => {
                    const one = field(rule, (value) => this.document.set(rule.key, value, rule.key));
                    this.settingFields.push(one);
                    return one.node;
                });
                return el("fieldset", {}, el("legend", {}, label), ...nodes);
            });
        }

        watch() {
            new ResizeObserver(() => {
                this.root.classList.toggle("loraclr-wide", this.root.clientWidth >= WIDE);
                this.fitStage();
            }).observe(this.root);
            this.surface.addEventListener("dragover", (event) => event.preventDefault());
            this.surface.addEventListener("drop", (event) => this.takeFiles(event, event.dataTransfer.files));
            this.surface.addEventListener("paste", (event) => this.takeFiles(event, event.clipboardData.files));
            // the host sets its size sliders without events (swap, presets), so they are read, while the panel is seen
            let timer = 0;
            new IntersectionObserver(([entry]) => {
                clearInterval(timer);
                if (!entry.isIntersecting) return;
                timer = setInterval(() => this.readSize(), SIZE_MS);
                this.refreshConcepts();
            }).observe(this.root);
            this.askTokens = debounce(() => this.refreshTokens(), 500);
            this.askCheck = debounce(() => this.refreshCheck(), 400);
            this.askMap = debounce(() => this.refreshMap(), 250);
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
            const read = (name) => {
                const box = app().querySelector(`#${this.tab}_${name} input[type=number]`);
                return box && Number(box.value) > 0 ? Number(box.value) : this.document[name];
            };
            const [width, height] = [read("width"), read("height")];
            if (width === this.document.width && height === this.document.height) return;
            Object.assign(this.document, {width, height});
            this.fitStage();
            this.refreshStatus();
            this.askMap();
        }

        pickTool(name) {
            this.canvas.setTool(name);
            this.surface.focus({preventScroll: true});
        }

        toolChanged(name) {
            for (const button of this.toolButtons) this.toggle(button, button.dataset.tool === name);
            this.brush.node.hidden = name !== "brush" && name !== "eraser";
            this.brush.refresh(Math.round(1000 * (this.canvas || {brush: 0.06}).brush) / 10);
        }

        toggle(button, on) {
            button.setAttribute("aria-pressed", String(on));
        }

        say(text) {
            this.note = text;
            this.live.textContent = text;
            this.refreshStatus();
        }

        /** The spec into the hidden text, for the next generation. */
        putSpec(text) {
            const element = loraclrBridge.input(this.config.ids.spec);
            if (!element || text === this.written) return;
            this.written = text;
            loraclrBridge.write(element, text);
        }

        /** The hidden text was set from elsewhere (pasted parameters, "send to"), or by this panel. */
        specChanged(text) {
            if (text === this.written) return;
            this.written = text;
            this.load(text || "", {source: "server"});
        }

        /** Replaces the layout; shows a problem rather than losing what is there. */
        load(text, options = {}) {
            const problem = this.document.load(text, options);
            if (problem) this.showProblem(problem);
            return !problem;
        }

        /** Everything that follows a change of the layout. `gesture` is a change that is still going on. */
        changed(source) {
            if (!this.view) return;
            this.view.request();
            if (source === "gesture") {
                this.refreshStatus();
                return;
            }
            this.cards.refresh();
            if (source !== "update") this.cards.reveal();
            for (const one of this.settingFields) one.refresh(one.rule.key.split(".").reduce((owner, key) => owner[key], this.document.spec));
            this.undo.disabled = !this.document.undoStack.length;
            this.redo.disabled = !this.document.redoStack.length;
            this.note = "";
            this.refreshStatus();
            if (source === "selection") return;
            if (source !== "server") this.putSpec(this.document.text());
            const region = this.document.region();
            if (region && source !== "load") this.live.textContent = `Region ${this.document.regions.indexOf(region) + 1}: ${describe(this.document, region)}`;
            if (this.document.regions.some((one) => !drawable(one.shape))) this.redrawForeign();
            this.askTokens();
            this.askCheck();
            this.askMap();
        }

        refreshStatus() {
            const {width, height, regions} = this.document;
            const region = this.document.region();
            const count = `${regions.length} ${regions.length === 1 ? "region" : "regions"}`;
            const selected = region && !region.shape.live ? `${this.document.regions.indexOf(region) + 1}: ${describe(this.document, region)}` : "";
            this.status.replaceChildren(el("span", {}, `${width} × ${height}`), el("span", {}, count), el("span", {}, this.note || selected));
        }

        showProblem(text) {
            this.problem.hidden = !text;
            this.problem.textContent = text || "";
        }

        /** The server's parser is the judge: its first complaint is shown above the canvas. */
        async refreshCheck() {
            const answer = await this.bridge.ask("validate", {spec: this.document.text()});
            if (answer) this.showProblem(answer.error ? answer.error.message : (answer.problems || []).map((one) => one.message).slice(0, 3).join(" "));
        }

        /** Shapes that only the server can draw (a PNG, a grid) come back as masks and boxes. */
        async redrawForeign() {
            const text = this.document.text();
            if (text === this.foreign) return;
            this.foreign = text;
            const answer = await this.bridge.ask("validate", {spec: text});
            if (answer && answer.spec && this.document.text() === text && !(answer.problems || []).length) this.load(JSON.stringify(answer.spec), {source: "layout"});
        }

        async refreshTokens() {
            const texts = this.document.regions.map((region) => region.prompt);
            if (!texts.length) return;
            const ids = this.document.regions.map((region) => region.id);
            const answer = await this.bridge.ask("tokens", {texts});
            if (!answer || !answer.counts) return;
            answer.counts.forEach(([count, room], i) => {
                const card = this.cards.cards.get(ids[i]);
                if (card) card.setTokens(count, room);
            });
        }

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
            if (answer.error) this.maps.replaceChildren(el("p", {}, answer.error.message));
            else this.maps.replaceChildren(...answer.maps.map(({label, png}) => el("figure", {}, el("img", {src: png, alt: `Weights at ${label}`}), el("figcaption", {}, label))));
        }

        /** A ready-made layout: its boxes take the present prompts in order. */
        applyLayout(spec) {
            const prompts = this.document.regions.map(({prompt, negative, name, concept, negative_mode}) => ({prompt, negative, name, concept, negative_mode}));
            const regions = (spec.regions || []).map((region, i) => (region.prompt ? region : {...region, ...prompts[i]}));
            this.load(JSON.stringify({...spec, regions}), {source: "layout"});
            this.canvas.setTool("select");
        }

        previewBoxes(spec) {
            return (spec.regions || []).filter((region) => drawable(region.shape)).map((region) => this.document.boundsOf(region)).filter(Boolean);
        }

        /** The concepts that regions can be given, of all merged files. */
        setConcepts(concepts) {
            this.config.concepts = concepts;
            this.cards.refresh();
        }

        /** Files may have been merged since the page was made. */
        async refreshConcepts() {
            const answer = await this.bridge.ask("concepts");
            if (!answer || !answer.concepts) return;
            const sent = this.sent.filter(({file}) => !answer.concepts.some((one) => one.file === file));
            const concepts = [...answer.concepts, ...sent];
            if (JSON.stringify(concepts) !== JSON.stringify(this.config.concepts)) this.setConcepts(concepts);
        }

        /** The picture's own prompt of an import; what the user has written stays unless it is the imported text itself. */
        takePrompt(prompt, imported) {
            const main = loraclrBridge.input(`${this.tab}_prompt`);
            if (prompt && main && (!main.value.trim() || main.value.trim() === imported.trim())) loraclrBridge.write(main, prompt);
        }

        takeFiles(event, files) {
            const file = [...files].find((one) => one.type.startsWith("image/"));
            if (!file) return;
            event.preventDefault();
            this.setBackground(URL.createObjectURL(file));
        }

        pickFile(done) {
            const chooser = el("input", {type: "file", accept: "image/*"});
            chooser.addEventListener("change", () => {
                if (!chooser.files.length) return;
                const image = new Image();
                image.onload = () => done(image);
                image.onerror = () => this.say("That file is not a picture.");
                image.src = URL.createObjectURL(chooser.files[0]);
            });
            chooser.click();
        }

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
        for (const root of app().querySelectorAll(".loraclr-regional[data-config]:not([data-mounted])")) {
            root.setAttribute("data-mounted", "");
            const config = JSON.parse(root.dataset.config);
            panels.set(config.tab, new Panel(root, config));
        }
    }

    if (typeof onUiLoaded === "function") {
        onUiLoaded(mount);
        onAfterUiUpdate(mount); // a newer gradio may bring parts of the page later
    }
    else document.addEventListener("DOMContentLoaded", () => new MutationObserver(mount).observe(document.body, {childList: true, subtree: true}));

    R.mount = mount;
    R.specChanged = (tab, text) => panels.get(tab)?.specChanged(text); // gradio calls it
    R.panels = panels;
})();
