/* The list of regions: a card for each, the layout's twin for keyboard and screen reader. */
"use strict";

/**
 * @typedef {InstanceType<typeof loraclrRegional.panel.Panel>} Panel
 * @typedef {{name: string, te?: number, unet?: number}} RegionLora
 */

var loraclrRegional = loraclrRegional || {};

loraclrRegional.cards = (() => {
    const R = loraclrRegional;
    const {el, icon, iconButton, textButton} = R.dom;
    const {field, stopKeys} = R.fields;
    const PLACES = ["Left", "Top", "Right", "Bottom"];
    /** @type {Record<string, string>} */
    const KINDS = {box: "Box", poly: "Polygon", png: "Painted"};

    /**
     * `<lora:name:0.8>` texts as the spec's list, and back.
     * @param {string} text
     */
    function readLoras(text) {
        return [...text.matchAll(/<?(?:lora:)?([^<>:,]+)(?::(-?[\d.]+))?(?::(-?[\d.]+))?>?/g)].map(([, name, te, unet]) => {
            const weight = Number(te || 1);
            return {name: name.trim(), te: weight, unet: Number(unet || weight)};
        }).filter((lora) => lora.name && Number.isFinite(lora.te) && Number.isFinite(lora.unet));
    }

    /** @param {RegionLora[]} loras */
    const writeLoras = (loras) => loras.map(({name, te = 1, unet = te}) => `<lora:${name}:${te}${te === unet ? "" : ":" + unet}>`).join(" ");

    /**
     * Sentence for screen readers: kind and place of a shape.
     * @param {RegionalDocument} document_
     * @param {Region} region
     */
    function describe(document_, region) {
        const box = document_.boundsOf(region);
        if (!box) return "no place in the picture";
        /** @param {any} value */
        const percent = (value) => `${Math.round(100 * value)} %`;
        return `${KINDS[region.shape.t] ?? ""}, ${percent(box[2] - box[0])} × ${percent(box[3] - box[1])} at ${percent(box[0])}, ${percent(box[1])}`;
    }

    class RegionCard {
        /**
         * @param {Panel} panel
         * @param {string} id
         */
        constructor(panel, id) {
            this.panel = panel;
            this.id = id;
            const {document: doc} = panel;
            /** @param {string} key */
            const set = (key) => (/** @type {any} */ value) => doc.update(this.id, {[key]: value}, `${key} ${this.id}`);
            this.number = el("button", {type: "button", class: "loraclr-number", onclick: () => this.choose()});
            this.name = el("input", {"type": "text", "class": "loraclr-name", "placeholder": "Name", "aria-label": "Name of the region", "autocomplete": "off", "spellcheck": "false", "onkeydown": stopKeys});
            this.name.addEventListener("input", () => set("name")(this.name.value));
            this.tokens = el("span", {class: "loraclr-tokens", title: "Tokens of the prompt / room in its chunks"});
            this.on = iconButton("eye", "Region is used", () => doc.update(this.id, {on: !this.region.on}), {"aria-pressed": "true"});
            this.prompt = el("textarea", {"rows": "2", "placeholder": "What stands here", "aria-label": "Prompt of the region", "spellcheck": "false"});
            this.prompt.addEventListener("input", () => set("prompt")(this.prompt.value));
            this.prompt.addEventListener("keydown", stopKeys);
            this.place = el("span", {class: "loraclr-place"});
            this.more = el("details", {class: "loraclr-more"}, el("summary", {}, el("span", {}, "More"), this.place));
            this.more.addEventListener("toggle", () => this.fillMore());
            /** @type {Field[]} what is behind "More", by the region's keys */
            this.fields = [];
            /** @type {Field[]} the four sides of the region's frame */
            this.sides = [];
            this.places = el("div", {"class": "loraclr-places", "role": "group", "aria-label": "Place in percent of the picture"});
            const head = el(
                "div",
                {class: "loraclr-card-head"},
                this.number,
                this.name,
                this.tokens,
                this.on,
                iconButton("up", "Bring forward (])", () => doc.restack(this.id, 1)),
                iconButton("down", "Send back ([)", () => doc.restack(this.id, -1)),
                iconButton("copy", "Duplicate (Ctrl+D)", () => doc.duplicate(this.id)),
                iconButton("trash", "Delete (Del)", () => doc.remove(this.id)),
            );
            // hosts bind their prompt helpers to "#…_prompt textarea" and ".prompt textarea"
            const prompt = el("div", {class: "prompt loraclr-prompt"}, el("label", {}, this.prompt));
            this.concepts = el("div", {class: "loraclr-concepts"});
            this.conceptKey = ""; // the list that the chooser was made of
            this.concept = el("select");
            this.node = el("li", {"class": "loraclr-card", "data-region": id}, head, this.concepts, prompt, this.more);
            this.node.addEventListener("focusin", () => this.choose());
            this.node.addEventListener("pointerdown", () => this.choose());
        }

        /** @returns {Region} */
        get region() {
            return /** @type {Region} */ (this.panel.document.region(this.id));
        }

        choose() {
            this.panel.document.select(this.id);
        }

        /** The fields behind "More" are made when they are first opened. */
        fillMore() {
            if (!this.more.open || this.fields.length) return;
            const {document: doc, config} = this.panel;
            for (const rule of config.regionFields) {
                const one = field(rule, (/** @type {any} */ value) => doc.update(this.id, {[rule.key]: value}, `${rule.key} ${this.id}`));
                this.fields.push(one);
                this.more.append(one.node);
            }
            /** @type {Rule} */
            const rule = {key: "loras", kind: "text", label: "LoRAs only here", help: "LoRA tags that act in this region alone, such as <lora:name:0.8>.", empty: "<lora:name:0.8>"};
            const loras = field(rule, (text) => doc.update(this.id, {loras: readLoras(text)}, `loras ${this.id}`));
            const refresh = (/** @type {RegionLora[] | undefined} */ value) => {
                if (!loras.node.contains(document.activeElement)) loras.refresh(writeLoras(value || [])); // not while it is typed
            };
            this.fields.push({...loras, refresh});
            this.more.append(loras.node);
            this.sides = PLACES.map((label, i) => {
                /** @type {Rule} */
                const side = {key: label, kind: "number", label, help: "In percent of the picture.", low: 0, high: 100, step: 0.1};
                return field(side, (value) => this.setPlace(i, value));
            });
            this.places.append(...this.sides.map((one) => one.node));
            const shapeTools = el(
                "div",
                {class: "loraclr-row"},
                textButton("Whole picture", () => this.shape({t: "box", r: [0, 0, 1, 1]})),
                textButton("To polygon", () => this.toPolygon()),
                textButton("To painted", () => this.toMask((mask) => mask)),
                textButton("Invert", () => this.toMask(R.mask.invert)),
                textButton("Mask from file…", () => this.panel.pickFile((image) => this.fromImage(image))),
            );
            this.more.append(this.places, shapeTools);
            this.refresh();
        }

        /** @param {Shape} shape */
        shape(shape) {
            this.panel.document.update(this.id, {shape});
        }

        /**
         * @param {number} index
         * @param {number} percent
         */
        setPlace(index, percent) {
            const {document: doc} = this.panel;
            const {shape} = this.region;
            const from = doc.boundsOf(this.region);
            if (!from) return;
            /** @type {Box} */
            const to = [...from];
            to[index] = percent / 100;
            const box = R.geometry.roundBox(R.geometry.boxFromCorners(...to));
            const key = `place ${index} ${this.id}`;
            if (shape.t === "box") doc.update(this.id, {shape: {...shape, r: box}}, key);
            else if (shape.t === "poly") doc.update(this.id, {shape: {...shape, p: R.geometry.fitPoints(shape.p, from, box).map((p) => p.map(R.geometry.round))}}, key);
        }

        toPolygon() {
            const {shape} = this.region;
            if (R.document.drawable(shape) && shape.t === "box") this.shape({t: "poly", p: R.mask.boxPoints(shape.r)});
        }

        /** @param {(mask: Mask) => Mask} change */
        toMask(change) {
            const {document: doc} = this.panel;
            const mask = R.mask.rasterise(this.region.shape, doc.width, doc.height);
            if (mask) this.shape(R.mask.toShape(change(mask)));
        }

        /** @param {HTMLImageElement} image */
        fromImage(image) {
            const {document: doc} = this.panel;
            const {w, h} = R.mask.create(doc.width, doc.height);
            const mask = R.mask.fromImage(image, w, h);
            if (R.mask.isEmpty(mask)) this.panel.say("The picture has no bright or opaque part to use as a mask.");
            else this.shape(R.mask.toShape(mask));
        }

        /**
         * Of several files with a concept of this name, the one whose tag the main prompt has.
         * @param {Region} region
         */
        conceptOf(region) {
            const main = loraclrBridge.input(`${this.panel.tab}_prompt`);
            /** @param {Concept} concept */
            const used = ({name, file}) => name === region.concept && main && main.value.includes(`<lora:${file}:`);
            const {concepts} = this.panel.config;
            const at = concepts.findIndex(used);
            return at >= 0 ? at : concepts.findIndex((concept) => concept.name === region.concept);
        }

        /**
         * Concept chooser; made again only when the list of concepts has changed.
         * @param {Region} region
         */
        refreshConcepts(region) {
            const {concepts} = this.panel.config;
            const key = JSON.stringify(concepts);
            if (this.conceptKey !== key) {
                this.conceptKey = key;
                const options = concepts.map((concept, i) => el("option", {value: String(i)}, `${concept.name} — ${concept.file}`));
                const title = "Puts the concept's trigger into this region and the LoRA's tag into the main prompt, once.";
                this.concept = el("select", {"aria-label": "Concept of a merged LoRA", title}, el("option", {value: ""}, "Concept…"), ...options);
                this.concept.addEventListener("change", () => R.concepts.use(this.panel, this.id, this.concept.value === "" ? null : concepts[Number(this.concept.value)]));
                this.concepts.replaceChildren(this.concept);
                this.concepts.hidden = !concepts.length;
            }
            const at = this.conceptOf(region);
            this.concept.value = region.concept && at >= 0 ? String(at) : "";
        }

        refresh() {
            const {document: doc} = this.panel;
            const region = doc.region(this.id);
            if (!region) return;
            const at = doc.regions.indexOf(region) + 1;
            const selected = doc.selected === this.id;
            /**
             * @param {HTMLInputElement | HTMLTextAreaElement} input
             * @param {any} value
             */
            const put = (input, value) => {
                if (input.value !== value) input.value = value;
            };
            this.node.style.setProperty("--loraclr-colour", R.view.look(doc, region).colour);
            this.node.classList.toggle("loraclr-selected", selected);
            this.node.classList.toggle("loraclr-off", !region.on);
            this.number.textContent = String(at);
            this.number.setAttribute("aria-pressed", String(selected));
            this.number.setAttribute("aria-label", `Region ${at}${region.name ? " " + region.name : ""}: ${describe(doc, region)}${region.on ? "" : ", off"}`);
            this.on.setAttribute("aria-pressed", String(region.on));
            this.on.replaceChildren(icon(region.on ? "eye" : "off"));
            this.place.textContent = describe(doc, region);
            put(this.name, region.name);
            put(this.prompt, region.prompt);
            this.refreshConcepts(region);
            for (const one of this.fields) one.refresh(region[one.rule.key]);
            if (this.sides.length) {
                const box = doc.boundsOf(region);
                this.places.hidden = !box || region.shape.t === "png";
                if (box) this.sides.forEach((one, i) => one.refresh(R.geometry.round(box[i]) * 100));
            }
        }

        /**
         * @param {number} count
         * @param {number} room
         */
        setTokens(count, room) {
            this.tokens.textContent = room ? `${count}/${room}` : "";
        }
    }

    class RegionCards {
        /** @param {Panel} panel */
        constructor(panel) {
            this.panel = panel;
            /** @type {Map<string, RegionCard>} */
            this.cards = new Map();
            this.list = el("ol", {"class": "loraclr-cards", "aria-label": "Regions"});
            this.empty = el("p", {class: "loraclr-empty"}, "Drag a box on the picture, or choose a grid. The main prompt fills what no region covers.");
            this.node = el("div", {class: "loraclr-side"}, this.empty, this.list);
        }

        refresh() {
            const {document: doc} = this.panel;
            const ids = doc.regions.map((/** @type {Region} */ region) => region.id);
            for (const [id, card] of this.cards) {
                if (ids.includes(id)) continue;
                card.node.remove();
                this.cards.delete(id);
            }
            ids.forEach((/** @type {string} */ id, /** @type {number} */ i) => {
                const card = this.cards.get(id) ?? new RegionCard(this.panel, id);
                this.cards.set(id, card);
                if (this.list.children[i] !== card.node) this.list.insertBefore(card.node, this.list.children[i] || null);
                card.refresh();
            });
            this.empty.hidden = ids.length > 0;
        }

        /** Shows the selected card without moving the page. */
        reveal() {
            const card = this.cards.get(this.panel.document.selected ?? "");
            if (!card) return;
            const [top, bottom] = [card.node.offsetTop, card.node.offsetTop + card.node.offsetHeight];
            if (top < this.node.scrollTop) this.node.scrollTop = top - 6;
            else if (bottom > this.node.scrollTop + this.node.clientHeight) this.node.scrollTop = Math.min(top - 6, bottom - this.node.clientHeight + 6);
        }

        /** @param {string} id */
        focusPrompt(id) {
            const card = this.cards.get(id);
            if (card) card.prompt.focus();
        }
    }

    return {RegionCards, readLoras, writeLoras, describe};
})();
