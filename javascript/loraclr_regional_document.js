/* The layout being edited: the spec, what is selected, undo and redo. No DOM.
 * The text form is the spec's JSON: keys at their default are left out, keys this version does not know are kept. */
"use strict";

/**
 * One region's place: a box ("box", `r`), a polygon ("poly", `p`), a painted mask ("png", `png` in base64), or another
 * one that only the server knows. While it is being changed a mask is `live`, and moves by `shift`.
 * @typedef {{t: string, r?: any, p?: any, png?: string, live?: Mask, shift?: Point, [key: string]: any}} Shape
 *
 * Layout and region are the spec's JSON with every default filled in; `lib_loraclr/regional/spec.py` describes the keys.
 * @typedef {{id: string, shape: Shape, prompt: string, name: string, on: boolean, order: number, [key: string]: any}} Region
 * @typedef {{v: number, regions: Region[], [key: string]: any}} Layout
 * @typedef {{[key: string]: any}} Json
 * @typedef {{spec: Json, region: Json}} Defaults
 * What keys of earlier versions are called now, in nested objects too.
 * @typedef {{names: Record<string, string>, parts: Record<string, OldNames>}} OldNames
 * @typedef {{text: string, selected: string | null}} Snapshot
 */

var loraclrRegional = loraclrRegional || {};

loraclrRegional.document = (() => {
    const R = loraclrRegional;
    const HISTORY = 200;
    const COALESCE_MS = 1000;

    /**
     * @template T
     * @param {T} value
     * @returns {T}
     */
    const clone = (value) => JSON.parse(JSON.stringify(value));
    /**
     * @param {unknown} a
     * @param {unknown} b
     */
    const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
    /**
     * @param {any} value
     * @returns {value is Json}
     */
    const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

    /**
     * `given` over `defaults`, objects key by key; null in `given` means the default.
     * @param {Json} given
     * @param {Json} defaults
     * @returns {Json}
     */
    function filled(given, defaults) {
        /** @type {Json} */
        const result = {...given};
        for (const [key, value] of Object.entries(defaults)) {
            if (isObject(value)) result[key] = filled(isObject(given[key]) ? given[key] : {}, value);
            else if (given[key] === undefined || given[key] === null) result[key] = clone(value);
        }
        return result;
    }

    /**
     * What of `given` differs from `defaults`.
     * @param {Json} given
     * @param {Json} defaults
     */
    function sparse(given, defaults) {
        /** @type {Json} */
        const result = {};
        for (const [key, value] of Object.entries(given)) {
            if (isObject(value) && isObject(defaults[key])) {
                const inner = sparse(value, defaults[key]);
                if (Object.keys(inner).length) result[key] = inner;
            } else if (!(key in defaults) || !same(value, defaults[key])) {
                result[key] = value;
            }
        }
        return result;
    }

    /**
     * `written` with the present names of its keys.
     * @param {Json} written
     * @param {OldNames} old
     */
    function renamed(written, {names, parts}) {
        /** @type {Json} */
        const result = {};
        for (const [key, value] of Object.entries(written)) {
            const name = names[key] || key;
            result[name] = isObject(value) && parts[name] ? renamed(value, parts[name]) : value;
        }
        return result;
    }

    /** @param {any} p */
    const isPoint = (p) => Array.isArray(p) && p.length === 2 && p.every(Number.isFinite);

    /**
     * Can this shape be drawn and edited here?
     * @param {Shape} shape
     */
    function drawable(shape) {
        if (!isObject(shape)) return false;
        if (shape.t === "box") return Array.isArray(shape.r) && shape.r.length === 4 && shape.r.every(Number.isFinite);
        if (shape.t === "poly") return Array.isArray(shape.p) && shape.p.length > 2 && shape.p.every(isPoint);
        return shape.t === "png" && R.mask.ofShape(shape) !== null;
    }

    class RegionalDocument {
        /**
         * `changed(source)` is called after every change.
         * @param {{defaults: Defaults, oldNames: {spec: OldNames, region: OldNames}, colours: string[]}} form
         * @param {(source: string) => void} changed
         */
        constructor({defaults, oldNames, colours}, changed = () => {}) {
            this.defaults = defaults;
            this.oldNames = oldNames;
            this.colours = colours;
            this.changed = changed;
            this.width = this.height = 512;
            /** @type {any} */
            this.spec = filled({regions: []}, defaults.spec);
            /** @type {string | null} */
            this.selected = null;
            /** @type {Snapshot[]} */
            this.undoStack = [];
            /** @type {Snapshot[]} */
            this.redoStack = [];
            /** @type {{key: string | null, time: number}} */
            this.last = {key: null, time: 0};
        }

        /** @returns {Region[]} */
        get regions() {
            return this.spec.regions;
        }

        /**
         * Region by id, the selected one without it; null if there is none.
         * @param {string | null} id
         * @returns {Region | null}
         */
        region(id = this.selected) {
            return this.regions.find((region) => region.id === id) || null;
        }

        /**
         * Regions from the lowest to the topmost.
         * @returns {Region[]}
         */
        stacked() {
            return [...this.regions].sort((a, b) => a.order - b.order); // a stable sort: of equal ones the later is above
        }

        text() {
            const {spec, region} = this.defaults;
            const layout = sparse({...this.spec, regions: spec.regions}, spec);
            const regions = this.regions.map((one) => {
                const {id, shape, prompt, ...rest} = one;
                return {id, ...(shape ? {shape} : {}), prompt, ...sparse(rest, region)};
            });
            return JSON.stringify({v: this.spec.v, ...layout, regions});
        }

        /**
         * Replaces the layout by a spec's text and returns null, or a sentence that says what is wrong with it.
         * @param {string} text
         * @param {{history?: boolean, source?: string}} options
         */
        load(text, {history = true, source = "load"} = {}) {
            let spec;
            try {
                spec = text.trim() ? JSON.parse(text) : {};
            } catch (error) {
                return `The regions are not valid JSON: ${error instanceof Error ? error.message : error}`;
            }
            if (!isObject(spec)) return "The regions are not a JSON object.";
            if (spec.regions !== undefined && !(Array.isArray(spec.regions) && spec.regions.every(isObject))) {
                return "'regions' is not a list of objects.";
            }
            if (history && this.text() !== text) this.snapshot();
            this.adopt(spec);
            this.changed(source);
            return null;
        }

        /** @param {Json} spec */
        adopt(spec) {
            const used = new Set();
            /** @type {Region[]} */
            const regions = (spec.regions || []).map((/** @type {Json} */ written) => {
                const given = renamed(written, this.oldNames.region);
                const region = filled(given, this.defaults.region);
                region.prompt = typeof given.prompt === "string" ? given.prompt : "";
                region.id = typeof given.id === "string" && given.id && !used.has(given.id) ? given.id : null;
                used.add(region.id);
                return region;
            });
            this.spec = {...filled({...renamed(spec, this.oldNames.spec), regions: []}, this.defaults.spec), regions};
            for (const region of regions) if (!region.id) region.id = this.freeId();
            if (!this.region()) this.selected = null;
        }

        freeId() {
            let number = 1;
            while (this.regions.some((region) => region.id === "r" + number)) number++;
            return "r" + number;
        }

        /**
         * Puts the present state on the undo stack; calls with one key in quick succession count as one step.
         * @param {string | null} key
         */
        snapshot(key = null) {
            const now = Date.now();
            const more = key !== null && key === this.last.key && now - this.last.time < COALESCE_MS;
            this.last = {key, time: now};
            if (more) return;
            this.undoStack.push({text: this.text(), selected: this.selected});
            if (this.undoStack.length > HISTORY) this.undoStack.shift();
            this.redoStack = [];
        }

        /**
         * @param {Snapshot[]} from
         * @param {Snapshot[]} to
         */
        travel(from, to) {
            const state = from.pop();
            if (!state) return false;
            to.push({text: this.text(), selected: this.selected});
            this.adopt(JSON.parse(state.text));
            this.selected = this.region(state.selected) ? state.selected : null;
            this.last = {key: null, time: 0};
            this.changed("history");
            return true;
        }

        undo() {
            return this.travel(this.undoStack, this.redoStack);
        }

        redo() {
            return this.travel(this.redoStack, this.undoStack);
        }

        /** @param {string | null} id */
        select(id) {
            if (this.selected === id) return;
            this.selected = id;
            this.changed("selection");
        }

        /**
         * Selects the next region in the list (`step` 1) or the previous one (-1), going round.
         * @param {number} step
         */
        selectNext(step) {
            const count = this.regions.length;
            if (!count) return;
            const at = this.regions.findIndex((region) => region.id === this.selected);
            this.select(this.regions[at < 0 ? (step > 0 ? 0 : count - 1) : (at + step + count) % count].id);
        }

        /**
         * @param {Json} given
         * @param {Shape} shape
         * @returns {Region}
         */
        fresh(given, shape) {
            const {name, on, order, ...rest} = filled(given, this.defaults.region);
            return {...rest, name, on, order, prompt: given.prompt || "", id: this.freeId(), shape};
        }

        /**
         * New region of this shape on top of the others, selected.
         * @param {Shape} shape
         * @param {Json} given
         * @returns {Region}
         */
        add(shape, given = {}) {
            this.snapshot();
            const region = this.fresh(given, shape);
            region.order = Math.max(this.defaults.region.order, ...this.regions.map((other) => other.order + (this.regions.length ? 1 : 0)));
            this.regions.push(region);
            this.selected = region.id;
            this.changed("add");
            return region;
        }

        /** @param {string | null} id */
        remove(id = this.selected) {
            const at = this.regions.findIndex((region) => region.id === id);
            if (at < 0) return;
            this.snapshot();
            this.regions.splice(at, 1);
            this.selected = this.regions.length ? this.regions[Math.min(at, this.regions.length - 1)].id : null;
            this.changed("remove");
        }

        clear() {
            if (!this.regions.length) return;
            this.snapshot();
            this.spec.regions = [];
            this.selected = null;
            this.changed("remove");
        }

        /** @param {string | null} id */
        duplicate(id = this.selected) {
            const region = this.region(id);
            if (!region) return null;
            const given = clone(region);
            let shape = given.shape;
            if (drawable(shape)) {
                if (shape.t === "box") shape = {...shape, r: R.geometry.roundBox(R.geometry.moveBox(shape.r, 0.04, 0.04))};
                if (shape.t === "poly") shape = {...shape, p: R.geometry.movePoints(shape.p, 0.04, 0.04)};
            }
            if (given.name) given.name += " copy";
            return this.add(shape, given);
        }

        /**
         * Changes keys of one region; calls with one `key` in quick succession are one undo step.
         * @param {string} id
         * @param {Json} change
         * @param {string | null} key
         */
        update(id, change, key = null) {
            const region = this.region(id);
            if (!region || Object.entries(change).every(([name, value]) => same(region[name], value))) return;
            this.snapshot(key);
            Object.assign(region, change);
            this.changed("update");
        }

        /**
         * Changes a key of the whole layout, such as "feather" or "isolation.strength".
         * @param {string} path
         * @param {any} value
         * @param {string | null} key
         */
        set(path, value, key = null) {
            const parts = path.split(".");
            const name = parts.pop() ?? "";
            const owner = parts.reduce((object, part) => object[part], this.spec);
            if (same(owner[name], value)) return;
            this.snapshot(key);
            owner[name] = value;
            this.changed("update");
        }

        /**
         * Moves a region one step up (1) or down (-1) in the stack, or to its end (Infinity, -Infinity).
         * @param {string | null} id
         * @param {number} step
         */
        restack(id, step) {
            const order = this.stacked();
            const from = order.findIndex((region) => region.id === id);
            const to = R.geometry.clamp(from + step, 0, order.length - 1);
            if (from < 0 || from === to) return;
            this.snapshot();
            order.splice(to, 0, order.splice(from, 1)[0]);
            order.forEach((region, i) => {
                region.order = i;
            });
            this.changed("update");
        }

        /**
         * Moves a region within the list; the stack stays as it is.
         * @param {string} id
         * @param {number} step
         */
        reorder(id, step) {
            const from = this.regions.findIndex((region) => region.id === id);
            const to = from + step;
            if (from < 0 || to < 0 || to >= this.regions.length) return;
            this.snapshot();
            this.regions.splice(to, 0, this.regions.splice(from, 1)[0]);
            this.changed("update");
        }

        /**
         * Replaces all shapes by boxes, keeping prompts in order; surplus regions go unless they hold a prompt.
         * @param {Box[]} boxes
         */
        applyGrid(boxes) {
            this.snapshot();
            const old = this.regions.slice();
            this.spec.regions = old.slice(0, boxes.length).concat(old.slice(boxes.length).filter((region) => region.prompt.trim()));
            boxes.forEach((r, i) => {
                const shape = {t: "box", r};
                if (i < this.regions.length) this.regions[i].shape = shape;
                else this.regions.push({...this.fresh({}, shape), order: i});
            });
            if (!this.region()) this.selected = this.regions.length ? this.regions[0].id : null;
            this.changed("grid");
        }

        /**
         * Box around a region's shape, or null.
         * @param {Region | null} region
         * @returns {Box | null}
         */
        boundsOf(region) {
            if (!region || !drawable(region.shape)) return null;
            const {shape} = region;
            if (shape.t === "box") return shape.r;
            if (shape.t === "poly") return R.geometry.bounds(shape.p);
            const mask = R.mask.ofShape(shape);
            return mask && R.mask.bounds(mask);
        }

        /**
         * Topmost region under (x, y) that is switched on; `below` looks under that one.
         * @param {number} x
         * @param {number} y
         * @param {string | null} below
         */
        hit(x, y, below = null) {
            const order = this.stacked().reverse().filter((region) => drawable(region.shape));
            const inside = order.filter(({shape}) => {
                if (shape.t === "box") return R.geometry.inBox(shape.r, x, y);
                if (shape.t === "poly") return R.geometry.inPolygon(shape.p, x, y);
                const mask = R.mask.ofShape(shape);
                return mask !== null && R.mask.hit(mask, x, y);
            });
            const at = inside.findIndex((region) => region.id === below);
            return inside[(at + 1) % Math.max(1, inside.length)] || null;
        }
    }

    return {RegionalDocument, drawable, filled, sparse};
})();
