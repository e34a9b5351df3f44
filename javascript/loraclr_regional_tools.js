/* What the pointer and the keyboard do on the canvas. Changes the document, shows its work through the view. */
"use strict";

/**
 * @typedef {InstanceType<typeof loraclrRegional.canvas.RegionalCanvas>} RegionalCanvas
 *
 * What runs from pointer down to pointer up.
 * @typedef {{
 *   start?: At, move: (at: At, event: PointerEvent) => void, up?: (at: At, event: PointerEvent) => void, cancel?: () => void
 * }} Gesture
 *
 * @typedef {{
 *   down: (tools: RegionalCanvas, at: At, event: PointerEvent) => Gesture | null,
 *   double?: (tools: RegionalCanvas, at: At, event: PointerEvent) => void,
 *   hover?: (tools: RegionalCanvas, at: At, event: PointerEvent) => void,
 *   cursor?: (tools: RegionalCanvas, at: At) => string
 * }} Tool
 *
 * @typedef {"select" | "box" | "polygon" | "lasso" | "brush" | "eraser"} ToolName
 */

var loraclrRegional = loraclrRegional || {};

loraclrRegional.tools = (() => {
    const R = loraclrRegional;
    const GRIP = 9;
    const SNAP = 7;
    const CLICK = 4;
    const CURSORS = {nw: "nwse-resize", se: "nwse-resize", ne: "nesw-resize", sw: "nesw-resize", n: "ns-resize", s: "ns-resize", e: "ew-resize", w: "ew-resize"};
    /** @type {Record<string, ToolName>} */
    const KEYS = {v: "select", b: "box", p: "polygon", l: "lasso", d: "brush", e: "eraser"};

    /**
     * A shape that can be drawn as a mask.
     * @param {RegionalCanvas} tools
     * @param {Shape} shape
     */
    function maskOf({document: {width, height}}, shape) {
        return R.mask.rasterise(shape, width, height) ?? R.mask.create(width, height);
    }

    /**
     * Shift that snaps the values on one axis, and the guide to show.
     * @param {RegionalCanvas} tools
     * @param {PointerEvent} event
     * @param {0 | 1} axis
     * @param {number[]} values
     * @returns {[number, [0 | 1, number][]]}
     */
    function snapAxis(tools, event, axis, values) {
        if (!tools.snap !== event.ctrlKey) return [0, []];
        const {document, view} = tools;
        const others = document.regions.filter((/** @type {Region} */ region) => region.on && region.id !== document.selected);
        const boxes = others.flatMap((region) => document.boundsOf(region) ? [/** @type {Box} */ (document.boundsOf(region))] : []);
        const length = axis ? view.rect().height : view.rect().width;
        const {shift, line} = R.geometry.snapShift(values, R.geometry.snapTargets(boxes, axis), SNAP / length);
        return [shift, line === null ? [] : [[axis, line]]];
    }

    /**
     * @param {RegionalCanvas} tools
     * @param {PointerEvent} event
     * @param {number} x
     * @param {number} y
     * @returns {Point}
     */
    function snapPoint(tools, event, x, y) {
        const [dx, gx] = snapAxis(tools, event, 0, [x]);
        const [dy, gy] = snapAxis(tools, event, 1, [y]);
        tools.view.overlay = {...tools.view.overlay, guides: gx.concat(gy)};
        return [R.geometry.clamp(x + dx, 0, 1), R.geometry.clamp(y + dy, 0, 1)];
    }

    /**
     * Changes a region while a gesture runs: undo step at the first change, the hidden text only at the end.
     * @param {RegionalCanvas} tools
     * @param {Region} region
     * @param {(at: At, event: PointerEvent) => void} apply
     * @returns {Gesture}
     */
    function gesture(tools, region, apply) {
        const before = JSON.stringify(region.shape);
        let begun = false;
        return {
            /**
             * @param {At} at
             * @param {PointerEvent} event
             */
            move(at, event) {
                if (!begun) {
                    if (this.start && Math.hypot(at.px - this.start.px, at.py - this.start.py) < CLICK) return;
                    tools.document.snapshot();
                    begun = true;
                }
                apply(at, event);
                tools.document.changed("gesture");
            },
            up() {
                tools.view.overlay = {};
                if (!begun) return;
                if (region.shape.shift) {
                    const [dx, dy] = region.shape.shift;
                    region.shape = R.mask.toShape(R.mask.move(maskOf(tools, region.shape), dx, dy));
                }
                if (region.shape.t === "box") region.shape = {...region.shape, r: R.geometry.roundBox(region.shape.r)};
                if (region.shape.t === "poly") {
                    region.shape = {...region.shape, p: region.shape.p.map((/** @type {Point} */ p) => p.map((/** @type {number} */ v) => R.geometry.round(R.geometry.clamp(v, 0, 1))))};
                }
                tools.document.changed("update");
            },
            cancel() {
                tools.view.overlay = {};
                if (!begun) return;
                region.shape = JSON.parse(before);
                tools.document.undoStack.pop();
                tools.document.changed("update");
            },
        };
    }

    /**
     * @param {RegionalCanvas} tools
     * @param {Region} region
     * @param {At} start
     */
    function dragRegion(tools, region, start) {
        const origin = JSON.parse(JSON.stringify(region.shape));
        const box = /** @type {Box} */ (tools.document.boundsOf(region));
        return gesture(tools, region, (/** @type {At} */ at, /** @type {PointerEvent} */ event) => {
            let [dx, dy] = [at.x - start.x, at.y - start.y];
            if (event.shiftKey) Math.abs(dx) > Math.abs(dy) ? (dy = 0) : (dx = 0);
            const [sx, gx] = snapAxis(tools, event, 0, [box[0] + dx, (box[0] + box[2]) / 2 + dx, box[2] + dx]);
            const [sy, gy] = snapAxis(tools, event, 1, [box[1] + dy, (box[1] + box[3]) / 2 + dy, box[3] + dy]);
            tools.view.overlay = {guides: gx.concat(gy)};
            [dx, dy] = [dx + sx, dy + sy];
            if (origin.t === "box") region.shape = {...origin, r: R.geometry.moveBox(origin.r, dx, dy)};
            else if (origin.t === "poly") region.shape = {...origin, p: R.geometry.movePoints(origin.p, dx, dy)};
            else region.shape = {...origin, shift: [dx, dy]};
        });
    }

    /**
     * @param {RegionalCanvas} tools
     * @param {Region} region
     * @param {Handle} handle
     */
    function dragHandle(tools, region, handle) {
        const origin = region.shape.r.slice();
        const ratio = (origin[2] - origin[0]) / (origin[3] - origin[1]);
        return gesture(tools, region, (/** @type {At} */ at, /** @type {PointerEvent} */ event) => {
            const [x, y] = snapPoint(tools, event, at.x, at.y);
            region.shape = {...region.shape, r: R.geometry.resizeBox(origin, handle, x, y, event.shiftKey ? ratio : null)};
        });
    }

    /**
     * @param {RegionalCanvas} tools
     * @param {Region} region
     * @param {number} index
     */
    function dragVertex(tools, region, index) {
        return gesture(tools, region, (/** @type {At} */ at, /** @type {PointerEvent} */ event) => {
            const [x, y] = snapPoint(tools, event, at.x, at.y);
            region.shape = {...region.shape, p: region.shape.p.map((/** @type {Point} */ p, /** @type {number} */ i) => (i === index ? [x, y] : p))};
        });
    }

    /**
     * @param {RegionalCanvas} tools
     * @param {At} start
     */
    function panning(tools, start) {
        let [px, py] = [start.px, start.py];
        return {
            /** @param {At} at */
            move(at) {
                tools.view.panBy(at.px - px, at.py - py);
                [px, py] = [at.px, at.py];
            },
        };
    }

    const SELECT = {
        /**
         * @param {RegionalCanvas} tools
         * @param {At} at
         * @param {PointerEvent} event
         */
        down(tools, at, event) {
            const {document} = tools;
            const grip = tools.grip(event);
            const region = document.region();
            if (region && R.document.drawable(region.shape)) {
                const {shape} = region;
                const handle = shape.t === "box" ? R.geometry.hitHandle(shape.r, at.x, at.y, grip / at.w, grip / at.h) : null;
                if (handle) return dragHandle(tools, region, handle);
                const vertex = shape.t === "poly" ? R.geometry.nearestVertex(shape.p, at.x, at.y, grip, at.w, at.h) : -1;
                if (vertex >= 0 && event.altKey && shape.p.length > 3) {
                    document.update(region.id, {shape: {...shape, p: shape.p.filter((/** @type {unknown} */ _, /** @type {number} */ i) => i !== vertex)}});
                    return null;
                }
                if (vertex >= 0) return dragVertex(tools, region, vertex);
            }
            const hit = document.hit(at.x, at.y, event.altKey ? document.selected : null);
            document.select(hit ? hit.id : null);
            return hit ? dragRegion(tools, hit, at) : panning(tools, at);
        },
        /**
         * @param {RegionalCanvas} tools
         * @param {At} at
         * @param {PointerEvent} event
         */
        double(tools, at, event) {
            const region = tools.document.region();
            if (!region || !R.document.drawable(region.shape)) return;
            const {shape} = region;
            const edge = shape.t === "poly" ? R.geometry.nearestEdge(shape.p, at.x, at.y, tools.grip(event), at.w, at.h) : -1;
            if (edge >= 0) {
                const p = shape.p.slice();
                p.splice(edge + 1, 0, [R.geometry.round(at.x), R.geometry.round(at.y)]);
                tools.document.update(region.id, {shape: {...shape, p}});
            } else if (tools.document.hit(at.x, at.y)) {
                tools.opened(region);
            }
        },
        /**
         * @param {RegionalCanvas} tools
         * @param {At} at
         */
        cursor(tools, at) {
            const region = tools.document.region();
            if (region && R.document.drawable(region.shape)) {
                const {shape} = region;
                if (shape.t === "box") {
                    const handle = R.geometry.hitHandle(shape.r, at.x, at.y, GRIP / at.w, GRIP / at.h);
                    if (handle) return CURSORS[handle];
                }
                if (shape.t === "poly" && R.geometry.nearestVertex(shape.p, at.x, at.y, GRIP, at.w, at.h) >= 0) return "crosshair";
            }
            return tools.document.hit(at.x, at.y) ? "move" : tools.view.zoom > 1 ? "grab" : "default";
        },
    };

    const BOX = {
        /**
         * @param {RegionalCanvas} tools
         * @param {At} at
         * @param {PointerEvent} event
         */
        down(tools, at, event) {
            const [x, y] = snapPoint(tools, event, at.x, at.y);
            /** @type {Region | null} */
            let region = null;
            /**
             * @param {At} to
             * @param {PointerEvent} ev
             */
            const resized = (to, ev) => {
                let [x1, y1] = snapPoint(tools, ev, to.x, to.y);
                if (ev.shiftKey) {
                    const side = Math.max(Math.abs(x1 - x) * to.w, Math.abs(y1 - y) * to.h);
                    [x1, y1] = [x + (Math.sign(x1 - x) * side) / to.w, y + (Math.sign(y1 - y) * side) / to.h];
                }
                return {t: "box", r: R.geometry.boxFromCorners(x, y, x1, y1)};
            };
            return {
                /**
                 * @param {At} to
                 * @param {PointerEvent} ev
                 */
                move(to, ev) {
                    if (!region && Math.hypot(to.px - at.px, to.py - at.py) < CLICK) return;
                    if (region) region.shape = resized(to, ev);
                    else region = tools.document.add(resized(to, ev));
                    tools.document.changed("gesture");
                },
                up() {
                    tools.view.overlay = {};
                    if (!region) return;
                    region.shape = {t: "box", r: R.geometry.roundBox(region.shape.r)};
                    tools.document.changed("update");
                    tools.drawn();
                },
                cancel() {
                    tools.view.overlay = {};
                    if (region) tools.document.undo();
                },
            };
        },
    };

    /**
     * Ends the outline being clicked: three points make a region.
     * @param {RegionalCanvas} tools
     */
    function finishPolygon(tools) {
        const {points} = tools;
        tools.points = [];
        tools.view.overlay = {};
        tools.view.request();
        if (points.length < 3 || R.geometry.area(points) < 1e-5) return;
        tools.document.add({t: "poly", p: points.map((/** @type {Point} */ p) => p.map(R.geometry.round))});
        tools.drawn();
    }

    const POLYGON = {
        /**
         * @param {RegionalCanvas} tools
         * @param {At} at
         * @param {PointerEvent} event
         */
        down(tools, at, event) {
            const closing = tools.points.length > 2 && R.geometry.nearestVertex([tools.points[0]], at.x, at.y, tools.grip(event), at.w, at.h) === 0;
            if (closing) {
                finishPolygon(tools);
                return null;
            }
            tools.points.push(snapPoint(tools, event, at.x, at.y));
            POLYGON.hover(tools, at, event);
            return null;
        },
        /** @param {RegionalCanvas} tools */
        double(tools) {
            tools.points.pop();
            finishPolygon(tools);
        },
        /**
         * @param {RegionalCanvas} tools
         * @param {At} at
         * @param {PointerEvent} event
         */
        hover(tools, at, event) {
            if (!tools.points.length) return;
            const next = snapPoint(tools, event, at.x, at.y);
            const closing = tools.points.length > 2 && R.geometry.nearestVertex([tools.points[0]], at.x, at.y, tools.grip(event), at.w, at.h) === 0;
            tools.view.overlay = {...tools.view.overlay, points: tools.points.concat([next]), closing};
        },
    };

    const LASSO = {
        /**
         * @param {RegionalCanvas} tools
         * @param {At} at
         * @param {PointerEvent} event
         */
        down(tools, at, event) {
            /** @type {Point[]} */
            const points = [[at.x, at.y]];
            const erase = event.altKey;
            return {
                /** @param {At} to */
                move(to) {
                    points.push([R.geometry.clamp(to.x, 0, 1), R.geometry.clamp(to.y, 0, 1)]);
                    tools.view.overlay = {points, closing: true};
                },
                up() {
                    tools.view.overlay = {};
                    const scale = Math.max(at.w, at.h);
                    const outline = R.geometry.simplify(points, 1.5 / scale);
                    if (outline.length < 3 || R.geometry.area(outline) < 1e-5) return;
                    const region = tools.document.region();
                    if (region && R.document.drawable(region.shape) && (region.shape.t === "png" || erase)) {
                        const easel = R.mask.easel(maskOf(tools, region.shape));
                        R.mask.fillPolygon(easel, outline, !erase);
                        tools.document.update(region.id, {shape: R.mask.toShape(R.mask.read(easel))});
                    } else if (!erase) {
                        tools.document.add({t: "poly", p: outline.map((p) => p.map(R.geometry.round))});
                        tools.drawn();
                    }
                },
                cancel() {
                    tools.view.overlay = {};
                },
            };
        },
    };

    /**
     * Brush (`paints`) and eraser. The brush goes on with the selected region if that is a painted one, and begins a new
     * region otherwise; the eraser turns any shape into what is left of it.
     * @param {boolean} paints
     */
    function painting(paints) {
        return {
            /**
             * @param {RegionalCanvas} tools
             * @param {At} at
             * @param {PointerEvent} event
             */
            down(tools, at, event) {
                const {document} = tools;
                const selected = document.region();
                const goesOn = selected && R.document.drawable(selected.shape) && (selected.shape.t === "png" || !paints);
                if (!goesOn && !paints) return null;
                const easel = R.mask.easel(goesOn ? maskOf(tools, selected.shape) : R.mask.create(document.width, document.height));
                /** @type {Point} */
                let last = [at.x, at.y];
                /** @param {At} to */
                const stamp = (to) => {
                    const radius = tools.brushRadius(to);
                    R.mask.stroke(easel, last, [to.x, to.y], radius / to.w, radius / to.h, paints !== event.altKey);
                    last = [to.x, to.y];
                };
                stamp(at); // before the region is added: an empty mask is no region
                if (goesOn) document.snapshot();
                const region = goesOn ? selected : document.add(R.mask.toShape(R.mask.read(easel)));
                const before = region.shape;
                /** @param {At} to */
                const paint = (to) => {
                    stamp(to);
                    region.shape = {t: "png", live: R.mask.read(easel)};
                    document.changed("gesture");
                };
                paint(at);
                return {
                    move: paint,
                    up() {
                        const mask = R.mask.read(easel);
                        region.shape = R.mask.toShape(mask);
                        document.changed("update");
                        tools.message(R.mask.isEmpty(mask) ? "Nothing of this region is left; undo brings it back." : "");
                    },
                    cancel() {
                        region.shape = before;
                        document.undo();
                    },
                };
            },
            /**
             * @param {RegionalCanvas} tools
             * @param {At} at
             */
            hover(tools, at) {
                tools.view.overlay = {brush: {px: at.px, py: at.py, radius: tools.brushRadius(at)}};
            },
            cursor: () => "none",
        };
    }

    /** @type {Record<ToolName, Tool>} */
    const TOOLS = {select: SELECT, box: BOX, polygon: POLYGON, lasso: LASSO, brush: painting(true), eraser: painting(false)};

    return {TOOLS, KEYS, GRIP, finishPolygon, panning};
})();
