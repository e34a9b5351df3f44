/* Draws the layout on a canvas: picture frame, regions, handles, guides. Knows nothing of tools or gradio. */
"use strict";

/**
 * @typedef {InstanceType<typeof loraclrRegional.document.RegionalDocument>} RegionalDocument
 * @typedef {{x: number, y: number, width: number, height: number}} Rect
 * @typedef {{px: number, py: number, radius: number}} BrushMark
 * @typedef {{guides?: [0 | 1, number][], points?: Point[], closing?: boolean, brush?: BrushMark | null}} Overlay
 */

var loraclrRegional = loraclrRegional || {};

loraclrRegional.view = (() => {
    const R = loraclrRegional;
    // there are as many as colours; from the ninth region on they tell regions of one colour apart
    const PATTERNS = ["rise", "fall", "dots", "level", "cross", "upright", "grid", "rings"];
    const HANDLE = 4.5;
    const MARGIN = 14;
    const MAX_ZOOM = 16;
    /** @type {WeakMap<Mask, {fill: Path2D, border: Path2D}>} */
    const paths = new WeakMap();
    /** @type {Map<string, HTMLCanvasElement>} */
    const tiles = new Map();

    /**
     * Colour and pattern of a region: its own number in its id where it has one, else its place in the list.
     * @param {RegionalDocument} document_
     * @param {Region} region
     */
    function look(document_, region) {
        const own = /^#[0-9a-f]{6}$/i.test(region.color || "") ? region.color : null;
        const match = /^r(\d+)$/.exec(region.id);
        const at = match ? Number(match[1]) - 1 : document_.regions.indexOf(region);
        const count = document_.colours.length;
        return {colour: own || document_.colours[at % count], pattern: PATTERNS[(at + Math.floor(at / count)) % PATTERNS.length]};
    }

    /**
     * Repeating tile of one pattern, drawn once for each colour and pixel density.
     * @param {string} colour
     * @param {string} kind
     * @param {number} density
     */
    function patternTile(colour, kind, density) {
        const key = `${colour} ${kind} ${density}`;
        const known = tiles.get(key);
        if (known) return known;
        const side = Math.round(10 * density);
        const tile = document.createElement("canvas");
        tile.width = tile.height = side;
        const ctx = /** @type {CanvasRenderingContext2D} */ (tile.getContext("2d"));
        ctx.strokeStyle = ctx.fillStyle = colour;
        ctx.lineWidth = density;
        /** @param {Box} ends */
        const line = (...[xa, ya, xb, yb]) => {
            ctx.beginPath();
            ctx.moveTo(xa * side, ya * side);
            ctx.lineTo(xb * side, yb * side);
            ctx.stroke();
        };
        /**
         * @param {number} radius
         * @param {boolean} fill
         */
        const ring = (radius, fill) => {
            ctx.beginPath();
            ctx.arc(side / 2, side / 2, radius * side, 0, 7);
            if (fill) ctx.fill(); else ctx.stroke();
        };
        /** @param {boolean} up */
        const diagonal = (up) => [-1, 0, 1].forEach((shift) => (up ? line(shift, 1, shift + 1, 0) : line(shift, 0, shift + 1, 1)));
        if (kind === "rise" || kind === "cross") diagonal(true);
        if (kind === "fall" || kind === "cross") diagonal(false);
        if (kind === "level" || kind === "grid") line(0, 0.5, 1, 0.5);
        if (kind === "upright" || kind === "grid") line(0.5, 0, 0.5, 1);
        if (kind === "dots") ring(0.14, true);
        if (kind === "rings") ring(0.24, false);
        tiles.set(key, tile);
        return tile;
    }

    /**
     * Fill and border of a mask as paths in mask pixels; kept as long as the mask itself.
     * @param {Mask} mask
     */
    function maskPaths(mask) {
        let found = paths.get(mask);
        if (found) return found;
        found = {fill: new Path2D(), border: new Path2D()};
        const {runs, border} = R.mask.outline(mask);
        for (const [x0, x1, y] of runs) found.fill.rect(x0, y, x1 - x0, 1);
        for (const [xa, ya, xb, yb] of border) {
            found.border.moveTo(xa, ya);
            found.border.lineTo(xb, yb);
        }
        paths.set(mask, found);
        return found;
    }

    class RegionalView {
        /**
         * @param {HTMLCanvasElement} canvas
         * @param {RegionalDocument} document_
         */
        constructor(canvas, document_) {
            this.canvas = canvas;
            this.document = document_;
            this.zoom = 1;
            this.pan = [0, 0];
            this.width = this.height = 1;
            /** @type {HTMLImageElement | null} */
            this.background = null;
            /** @type {Overlay} */
            this.overlay = {};
            this.density = 1;
            this.hidden = false;
            this.frame = 0;
        }

        /** Draws once before the next repaint, however often it is called. */
        request() {
            if (!this.frame) {
                this.frame = requestAnimationFrame(() => {
                    this.frame = 0;
                    this.draw();
                });
            }
        }

        /** Takes the element's size in CSS pixels. */
        resize() {
            const {clientWidth, clientHeight} = this.canvas;
            if (!clientWidth || !clientHeight) return;
            const density = window.devicePixelRatio || 1;
            this.width = clientWidth;
            this.height = clientHeight;
            this.canvas.width = Math.round(clientWidth * density);
            this.canvas.height = Math.round(clientHeight * density);
            this.draw();
        }

        /** Where the picture lies in the element, in CSS pixels. */
        rect() {
            const {width, height} = this.document;
            const fit = R.geometry.fitRect(this.width, this.height, width, height, MARGIN);
            const w = fit.width * this.zoom;
            const h = fit.height * this.zoom;
            return {x: (this.width - w) / 2 + this.pan[0], y: (this.height - h) / 2 + this.pan[1], width: w, height: h};
        }

        /**
         * @param {number} px
         * @param {number} py
         */
        toPicture(px, py) {
            const rect = this.rect();
            return [(px - rect.x) / rect.width, (py - rect.y) / rect.height];
        }

        /**
         * @param {number} x
         * @param {number} y
         * @returns {Point}
         */
        toScreen(x, y) {
            const rect = this.rect();
            return [rect.x + x * rect.width, rect.y + y * rect.height];
        }

        /**
         * Zooms by `factor` keeping the point (px, py) of the element in its place.
         * @param {number} px
         * @param {number} py
         * @param {number} factor
         */
        zoomAt(px, py, factor) {
            const zoom = R.geometry.clamp(this.zoom * factor, 1, MAX_ZOOM);
            const [x, y] = this.toPicture(px, py);
            this.zoom = zoom;
            if (zoom === 1) {
                this.pan = [0, 0];
            } else {
                const [nx, ny] = this.toScreen(x, y);
                this.panBy(px - nx, py - ny);
            }
            this.request();
        }

        /**
         * @param {number} dx
         * @param {number} dy
         */
        panBy(dx, dy) {
            const rect = this.rect();
            /**
             * @param {number} length
             * @param {number} frame
             */
            const limit = (length, frame) => Math.max(0, (length - frame) / 2 + MARGIN);
            const lx = limit(rect.width, this.width);
            const ly = limit(rect.height, this.height);
            this.pan = [R.geometry.clamp(this.pan[0] + dx, -lx, lx), R.geometry.clamp(this.pan[1] + dy, -ly, ly)];
            this.request();
        }

        fit() {
            this.zoom = 1;
            this.pan = [0, 0];
            this.request();
        }

        draw() {
            const ctx = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
            const style = getComputedStyle(this.canvas);
            /**
             * @param {string} name
             * @param {string} other
             */
            const colour = (name, other) => style.getPropertyValue(name).trim() || other;
            this.density = this.canvas.width / Math.max(1, this.width);
            ctx.setTransform(this.density, 0, 0, this.density, 0, 0);
            ctx.clearRect(0, 0, this.width, this.height);
            const rect = this.rect();
            this.drawPaper(ctx, rect, colour);
            if (!this.hidden) {
                const regions = this.document.stacked().filter((/** @type {Region} */ region) => R.document.drawable(region.shape));
                for (const region of regions) this.drawRegion(ctx, rect, region);
                for (const region of regions) this.drawLabel(ctx, region);
                const selected = this.document.region();
                if (selected && R.document.drawable(selected.shape)) this.drawHandles(ctx, selected.shape, look(this.document, selected).colour);
            }
            this.drawOverlay(ctx, rect);
        }

        /**
         * @param {CanvasRenderingContext2D} ctx
         * @param {Rect} rect
         * @param {(name: string, other: string) => string} colour
         */
        drawPaper(ctx, rect, colour) {
            ctx.fillStyle = colour("--loraclr-paper", "#fff");
            ctx.fillRect(rect.x, rect.y, rect.width, rect.height);
            if (this.background) {
                ctx.imageSmoothingQuality = "high";
                ctx.drawImage(this.background, rect.x, rect.y, rect.width, rect.height);
                ctx.fillStyle = colour("--loraclr-veil", "#fff4");
                ctx.fillRect(rect.x, rect.y, rect.width, rect.height);
            } else {
                ctx.fillStyle = colour("--loraclr-dot", "#0002");
                for (let i = 1; i < 8; i++) {
                    for (let j = 1; j < 8; j++) {
                        ctx.fillRect(rect.x + (rect.width * i) / 8 - 0.75, rect.y + (rect.height * j) / 8 - 0.75, 1.5, 1.5);
                    }
                }
            }
            ctx.strokeStyle = colour("--loraclr-frame", "#0004");
            ctx.lineWidth = 1;
            ctx.strokeRect(rect.x - 0.5, rect.y - 0.5, rect.width + 1, rect.height + 1);
        }

        /**
         * Path of a shape in CSS pixels: its fill, or the border of a mask.
         * @param {Rect} rect
         * @param {Shape} shape
         * @param {"fill" | "border"} part
         */
        shapePath(rect, shape, part = "fill") {
            const path = new Path2D();
            if (shape.t === "png") {
                const mask = R.mask.ofShape(shape) ?? R.mask.create(1, 1);
                const [dx, dy] = shape.shift || [0, 0];
                const matrix = new DOMMatrix([rect.width / mask.w, 0, 0, rect.height / mask.h, rect.x + dx * rect.width, rect.y + dy * rect.height]);
                path.addPath(maskPaths(mask)[part], matrix);
                return path;
            }
            /** @type {Point[]} */
            const points = shape.t === "box" ? R.mask.boxPoints(shape.r) : shape.p;
            points.forEach(([x, y], i) => path[i ? "lineTo" : "moveTo"](rect.x + x * rect.width, rect.y + y * rect.height));
            path.closePath();
            return path;
        }

        /**
         * @param {CanvasRenderingContext2D} ctx
         * @param {Rect} rect
         * @param {Region} region
         */
        drawRegion(ctx, rect, region) {
            const {colour, pattern} = look(this.document, region);
            const selected = region.id === this.document.selected;
            const fill = this.shapePath(rect, region.shape);
            const border = region.shape.t === "png" ? this.shapePath(rect, region.shape, "border") : fill;
            ctx.save();
            ctx.globalAlpha = region.on ? (selected ? 0.34 : 0.24) : 0.06;
            ctx.fillStyle = colour;
            ctx.fill(fill);
            if (region.on) {
                const tile = /** @type {CanvasPattern} */ (ctx.createPattern(patternTile(colour, pattern, this.density), "repeat"));
                tile.setTransform(new DOMMatrix([1 / this.density, 0, 0, 1 / this.density, rect.x, rect.y]));
                ctx.globalAlpha = selected ? 0.55 : 0.35;
                ctx.fillStyle = tile;
                ctx.fill(fill);
            }
            ctx.globalAlpha = region.on ? 1 : 0.55;
            if (!region.on) ctx.setLineDash([5, 4]);
            ctx.lineJoin = "round";
            if (selected) {
                ctx.strokeStyle = "#fff";
                ctx.lineWidth = 4;
                ctx.stroke(border);
            }
            ctx.strokeStyle = colour;
            ctx.lineWidth = selected ? 2.25 : 1.5;
            ctx.stroke(border);
            ctx.restore();
        }

        /**
         * @param {CanvasRenderingContext2D} ctx
         * @param {Region} region
         */
        drawLabel(ctx, region) {
            const box = this.document.boundsOf(region);
            if (!box) return;
            const number = String(this.document.regions.indexOf(region) + 1);
            const name = region.name || "";
            const [dx, dy] = region.shape.shift || [0, 0];
            let [x, y] = this.toScreen(box[0] + dx, box[1] + dy);
            const [right] = this.toScreen(box[2] + dx, 0);
            ctx.font = "600 11px system-ui, sans-serif";
            ctx.textBaseline = "middle";
            let text = name ? `${number}  ${name}` : number;
            const room = Math.max(right - x - 20, 8);
            while (text.length > number.length && ctx.measureText(text).width > room) text = text.slice(0, -1).trimEnd();
            const width = ctx.measureText(text).width + 11;
            if (region.shape.t === "poly") { // in its middle: a corner of its frame may lie outside, or under a handle
                const {p} = region.shape;
                const middle = [0, 1].map((axis) => p.reduce((/** @type {number} */ sum, /** @type {Point} */ point) => sum + point[axis], 0) / p.length);
                const [cx, cy] = this.toScreen(middle[0] + dx, middle[1] + dy);
                [x, y] = [cx - width / 2 - 5, cy - 14];
            }
            ctx.globalAlpha = region.on ? 1 : 0.6;
            ctx.fillStyle = look(this.document, region).colour;
            ctx.beginPath();
            if (ctx.roundRect) ctx.roundRect(x + 5, y + 5, width, 17, 4);
            else ctx.rect(x + 5, y + 5, width, 17);
            ctx.fill();
            ctx.fillStyle = "#fff";
            ctx.fillText(text, x + 10.5, y + 14);
            ctx.globalAlpha = 1;
        }

        /**
         * @param {CanvasRenderingContext2D} ctx
         * @param {Shape} shape
         * @param {string} colour
         */
        drawHandles(ctx, shape, colour) {
            const points = shape.t === "box" ? R.geometry.handlePoints(shape.r).map(([, x, y]) => [x, y]) : shape.t === "poly" ? shape.p : [];
            ctx.lineWidth = 1.5;
            for (const [x, y] of points) {
                const [px, py] = this.toScreen(x, y);
                ctx.beginPath();
                if (shape.t === "box") ctx.rect(px - HANDLE, py - HANDLE, 2 * HANDLE, 2 * HANDLE);
                else ctx.arc(px, py, HANDLE + 0.5, 0, 7);
                ctx.fillStyle = "#fff";
                ctx.fill();
                ctx.strokeStyle = colour;
                ctx.stroke();
            }
        }

        /**
         * What a tool shows while it works: guides [axis, at], points of an open outline, and the brush.
         * @param {CanvasRenderingContext2D} ctx
         * @param {Rect} rect
         */
        drawOverlay(ctx, rect) {
            const {guides = [], points = [], closing = false, brush = null} = this.overlay;
            ctx.lineWidth = 1;
            ctx.strokeStyle = "#e0218a";
            for (const [axis, at] of guides) {
                ctx.beginPath();
                const [px, py] = this.toScreen(axis ? 0 : at, axis ? at : 0);
                ctx.moveTo(axis ? rect.x : px, axis ? py : rect.y);
                ctx.lineTo(axis ? rect.x + rect.width : px, axis ? py : rect.y + rect.height);
                ctx.stroke();
            }
            /** @param {string} colour */
            const stroke = (colour, width = 3.5) => {
                ctx.strokeStyle = colour;
                ctx.lineWidth = width;
                ctx.stroke();
            };
            const twice = () => {
                stroke("#fff");
                stroke("#111", 1.5);
            };
            if (points.length) {
                ctx.beginPath();
                points.forEach(([x, y], i) => ctx[i ? "lineTo" : "moveTo"](...this.toScreen(x, y)));
                twice();
                const [px, py] = this.toScreen(...points[0]);
                ctx.beginPath();
                ctx.arc(px, py, closing ? 7 : 4, 0, 7);
                ctx.fillStyle = closing ? "#e0218a" : "#fff";
                ctx.fill();
                ctx.stroke();
            }
            if (brush) {
                ctx.beginPath();
                ctx.arc(brush.px, brush.py, Math.max(1, brush.radius), 0, 7);
                twice();
            }
        }
    }

    return {RegionalView, look, PATTERNS};
})();
