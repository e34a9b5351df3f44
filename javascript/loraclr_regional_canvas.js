/* The canvas element: pointer, touch, wheel and keyboard in, tools and view out. */
"use strict";

/**
 * @typedef {InstanceType<typeof loraclrRegional.view.RegionalView>} RegionalView
 *
 * Where the pointer is: in CSS pixels of the canvas, in fractions of the picture, and the picture's size in pixels.
 * @typedef {{px: number, py: number, x: number, y: number, w: number, h: number}} At
 * @typedef {{
 *   message: (text: string) => void, toolChanged: (name: ToolName) => void,
 *   opened: (region: Region) => void, drawn: (region: Region | null) => void
 * }} CanvasEvents
 */

var loraclrRegional = loraclrRegional || {};

loraclrRegional.canvas = (() => {
    const R = loraclrRegional;
    const NUDGE = 0.01;
    const FINE = 0.002;
    const DOUBLE_MS = 350;

    class RegionalCanvas {
        /**
         * `events` has message(text), toolChanged(name), opened(region) and drawn(region).
         * @param {HTMLCanvasElement} canvas
         * @param {RegionalDocument} document_
         * @param {RegionalView} view
         * @param {CanvasEvents} events
         */
        constructor(canvas, document_, view, events) {
            this.canvas = canvas;
            this.document = document_;
            this.view = view;
            this.events = events;
            /** @type {ToolName} */
            this.tool = "box";
            this.snap = true;
            this.brush = 0.06;
            /** @type {Point[]} */
            this.points = [];
            /** @type {Map<number, At>} */
            this.pointers = new Map();
            /** @type {At[] | null} */
            this.pinch = null;
            /** @type {Gesture | null} */
            this.active = null;
            this.space = false;
            this.lastDown = {time: 0, px: 0, py: 0};
            canvas.addEventListener("pointerdown", (/** @type {any} */ event) => this.down(event));
            canvas.addEventListener("pointermove", (/** @type {any} */ event) => this.move(event));
            canvas.addEventListener("pointerup", (/** @type {any} */ event) => this.up(event));
            canvas.addEventListener("pointercancel", (/** @type {any} */ event) => this.cancelPointer(event));
            canvas.addEventListener("pointerleave", () => this.leave());
            canvas.addEventListener("wheel", (/** @type {any} */ event) => this.wheel(event), {passive: false});
            canvas.addEventListener("keydown", (/** @type {any} */ event) => this.key(event));
            canvas.addEventListener("keyup", (/** @type {any} */ event) => {
                if (event.key === " ") this.space = false;
            });
            canvas.addEventListener("blur", () => {
                this.space = false;
            });
            canvas.addEventListener("contextmenu", (/** @type {any} */ event) => event.preventDefault());
        }

        /** @param {string} text */
        message(text) {
            this.events.message(text);
        }

        /** @param {Region} region */
        opened(region) {
            this.events.opened(region);
        }

        /** A new region was drawn: it can be moved at once. */
        drawn() {
            this.setTool("select");
            this.events.drawn(this.document.region());
        }

        /**
         * Distance in CSS pixels at which a handle is met; fingers are wider than pointers.
         * @param {any} event
         */
        grip(event) {
            return event.pointerType === "touch" ? 2 * R.tools.GRIP : R.tools.GRIP;
        }

        /** @param {At} at */
        brushRadius(at) {
            return (this.brush / 2) * Math.min(at.w, at.h);
        }

        /** @param {number} size */
        setBrush(size) {
            this.brush = R.geometry.clamp(size, 0.005, 0.6);
            this.view.request();
        }

        /** @param {ToolName} name */
        setTool(name) {
            if (this.tool === "polygon" && name !== "polygon") R.tools.finishPolygon(this);
            this.tool = name;
            this.view.overlay = {};
            this.view.request();
            this.canvas.style.cursor = name === "select" ? "default" : "crosshair";
            this.events.toolChanged(name);
        }

        /** @param {any} event */
        position(event) {
            const frame = this.canvas.getBoundingClientRect();
            const px = event.clientX - frame.left;
            const py = event.clientY - frame.top;
            const [x, y] = this.view.toPicture(px, py);
            const rect = this.view.rect();
            return {px, py, x, y, w: rect.width, h: rect.height};
        }

        /** @param {any} event */
        down(event) {
            if (event.button === 2) return;
            event.preventDefault();
            this.canvas.focus({preventScroll: true});
            try {
                this.canvas.setPointerCapture(event.pointerId);
            } catch (error) {
                // a pointer that is gone again cannot be captured, and need not be
            }
            const at = this.position(event);
            this.pointers.set(event.pointerId, at);
            if (this.pointers.size === 2) {
                this.abort();
                this.pinch = [...this.pointers.values()];
                return;
            }
            if (this.pointers.size > 2) return;
            const tool = R.tools.TOOLS[this.tool];
            const now = Date.now();
            const double = now - this.lastDown.time < DOUBLE_MS && Math.hypot(at.px - this.lastDown.px, at.py - this.lastDown.py) < 6;
            this.lastDown = {time: double ? 0 : now, px: at.px, py: at.py};
            if (event.button === 1 || this.space) {
                this.active = R.tools.panning(this, at);
            } else if (double && tool.double) {
                if (this.tool === "polygon") tool.down(this, at, event);
                tool.double(this, at, event);
            } else {
                this.active = tool.down(this, at, event);
            }
            if (this.active) this.active.start = at;
            this.view.request();
        }

        /** @param {any} event */
        move(event) {
            const at = this.position(event);
            if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, at);
            if (this.pinch) {
                this.pinchTo([...this.pointers.values()]);
                return;
            }
            const tool = R.tools.TOOLS[this.tool];
            if (this.active) {
                const all = event.getCoalescedEvents && this.tool !== "select" ? event.getCoalescedEvents() : [];
                for (const one of all.length ? all : [event]) this.active.move(this.position(one), event);
            } else if (!this.pointers.size && event.pointerType !== "touch" && tool.cursor) {
                this.canvas.style.cursor = tool.cursor(this, at);
            }
            if (tool.hover && event.pointerType !== "touch") tool.hover(this, at, event);
            this.view.request();
        }

        /** @param {At[]} now */
        pinchTo(now) {
            if (now.length < 2 || !this.pinch) return;
            /** @type {(two: At[]) => Point} */
            const centre = ([a, b]) => [(a.px + b.px) / 2, (a.py + b.py) / 2];
            /** @type {(two: At[]) => number} */
            const span = ([a, b]) => Math.max(10, Math.hypot(a.px - b.px, a.py - b.py));
            const [cx, cy] = centre(now);
            const [ox, oy] = centre(this.pinch);
            this.view.panBy(cx - ox, cy - oy);
            this.view.zoomAt(cx, cy, span(now) / span(this.pinch));
            this.pinch = now;
        }

        /** @param {any} event */
        up(event) {
            this.pointers.delete(event.pointerId);
            if (this.pinch) {
                if (this.pointers.size < 2) this.pinch = null;
                return;
            }
            const {active} = this;
            this.active = null;
            if (active && active.up) active.up(this.position(event), event);
            this.view.request();
        }

        /** @param {any} event */
        cancelPointer(event) {
            this.pointers.delete(event.pointerId);
            this.pinch = null;
            this.abort();
        }

        /** Gives up the gesture that runs; the layout is as before it. */
        abort() {
            const {active} = this;
            this.active = null;
            if (active && active.cancel) active.cancel();
            this.view.overlay = {};
            this.view.request();
        }

        leave() {
            if (this.active || this.points.length) return;
            this.view.overlay = {};
            this.view.request();
        }

        /** @param {any} event */
        wheel(event) {
            if (!event.ctrlKey && !event.metaKey) return;
            event.preventDefault();
            const {px, py} = this.position(event);
            this.view.zoomAt(px, py, Math.exp(-R.geometry.clamp(event.deltaY, -60, 60) / 120));
        }

        /** @param {number} factor */
        zoomStep(factor) {
            this.view.zoomAt(this.view.width / 2, this.view.height / 2, factor);
        }

        /**
         * Keyboard on the canvas; what is handled here does not reach the program's own shortcuts.
         * @param {any} event
         */
        key(event) {
            const command = event.ctrlKey || event.metaKey;
            const handled = command ? this.commandKey(event) : !event.altKey && this.plainKey(event) || this.arrowKey(event);
            if (!handled) return;
            event.preventDefault();
            event.stopPropagation();
        }

        /** @param {any} event */
        commandKey(event) {
            const key = event.key.toLowerCase();
            const {document} = this;
            if (key === "z" && !event.shiftKey) this.undo();
            else if (key === "y" || (key === "z" && event.shiftKey)) this.redo();
            else if (key === "d") document.duplicate();
            else return false;
            return true;
        }

        undo() {
            this.abort();
            if (this.points.length) {
                this.points.pop();
                this.view.overlay = {points: this.points.slice()};
                this.view.request();
            } else if (!this.document.undo()) {
                this.message("There is nothing to undo.");
            }
        }

        redo() {
            if (!this.document.redo()) this.message("There is nothing to redo.");
        }

        /** @param {any} event */
        plainKey(event) {
            const {document} = this;
            const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
            if (R.tools.KEYS[key]) this.setTool(R.tools.KEYS[key]);
            else if (key === " ") this.space = true;
            else if (key === "Delete" || key === "Backspace") document.remove();
            else if (key === "Enter") this.enter();
            else if (key === "Escape") this.escape();
            else if (key === "PageDown" || key === "n") document.selectNext(1);
            else if (key === "PageUp") document.selectNext(-1);
            else if (key === "]" || key === "}") document.restack(document.selected, event.shiftKey ? Infinity : 1);
            else if (key === "[" || key === "{") document.restack(document.selected, event.shiftKey ? -Infinity : -1);
            else if (key === "+" || key === "=") this.zoomStep(1.25);
            else if (key === "-") this.zoomStep(0.8);
            else if (key === "0") this.view.fit();
            else if (key === "," || key === ".") this.setBrush(this.brush * (key === "," ? 1 / 1.2 : 1.2));
            else return false;
            return true;
        }

        enter() {
            const region = this.document.region();
            if (this.points.length) {
                R.tools.finishPolygon(this);
            } else if (region) {
                this.opened(region);
            } else if (this.tool === "box") {
                this.document.add({t: "box", r: [0.25, 0.25, 0.75, 0.75]});
                this.drawn();
            }
        }

        escape() {
            if (this.active) {
                this.abort();
            } else if (this.points.length) {
                this.points = [];
                this.view.overlay = {};
                this.view.request();
            } else if (this.tool !== "select") {
                this.setTool("select");
            } else {
                this.document.select(null);
            }
        }

        /**
         * Arrows move the region, with Alt its lower right corner; Shift makes small steps.
         * @param {any} event
         */
        arrowKey(event) {
            const step = event.shiftKey ? FINE : NUDGE;
            /** @type {Record<string, Point>} */
            const arrows = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step]};
            const [dx, dy] = arrows[event.key] || [0, 0];
            const region = this.document.region();
            if ((!dx && !dy) || !region || !R.document.drawable(region.shape)) return false;
            const shape = nudged(region.shape, dx, dy, event.altKey);
            this.document.update(region.id, {shape}, "nudge " + region.id);
            return true;
        }
    }

    /**
     * A shape moved by (dx, dy), or with its lower right corner moved.
     * @param {Shape} shape
     * @param {number} dx
     * @param {number} dy
     * @param {boolean} resize
     */
    function nudged(shape, dx, dy, resize) {
        if (shape.t === "png") {
            const mask = R.mask.ofShape(shape);
            if (!mask) return shape;
            /**
             * @param {any} value
             * @param {number} count
             */
            const least = (value, count) => (value ? Math.sign(value) * Math.max(Math.abs(value), 1 / count) : 0);
            return R.mask.toShape(R.mask.move(mask, least(dx, mask.w), least(dy, mask.h)));
        }
        const box = shape.t === "box" ? shape.r : R.geometry.bounds(shape.p);
        const to = resize ? R.geometry.resizeBox(box, "se", box[2] + dx, box[3] + dy) : R.geometry.moveBox(box, dx, dy);
        if (shape.t === "box") return {...shape, r: R.geometry.roundBox(to)};
        return {...shape, p: R.geometry.fitPoints(shape.p, box, to).map((p) => p.map(R.geometry.round))};
    }

    return {RegionalCanvas, nudged};
})();
