/* Painted masks. A mask is {w, h, data}, data 1 where it is painted; strokes and fills are drawn on a canvas.
 * Points are fractions of the picture, so a mask follows the picture's size. The spec holds masks as PNG. */
"use strict";

/** @typedef {{w: number, h: number, data: Uint8Array}} Mask */

var loraclrRegional = loraclrRegional || {};

loraclrRegional.mask = (() => {
    const LONG_SIDE = 256;
    const CACHE = 64;
    /** @type {Map<string, Mask | null>} masks by their PNG; null for one that cannot be read */
    const known = new Map();
    /** @type {Set<string>} PNGs that are being read */
    const reading = new Set();
    /** @type {Set<() => void>} called when a PNG was read */
    const readers = new Set();

    /**
     * Empty mask with square pixels for a picture of width x height; sides are multiples of 8.
     * @param {number} width
     * @param {number} height
     * @returns {Mask}
     */
    function create(width, height) {
        const scale = LONG_SIDE / Math.max(width, height);
        /** @param {number} length */
        const side = (length) => Math.max(8, Math.round((length * scale) / 8) * 8);
        const [w, h] = [side(width), side(height)];
        return {w, h, data: new Uint8Array(w * h)};
    }

    /** @param {Mask} mask */
    const isEmpty = (mask) => !mask.data.includes(1);

    // ---- canvas --------------------------------------------------------------------------------------------------

    /**
     * @param {number} w
     * @param {number} h
     */
    function context(w, h) {
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [w, h];
        return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", {willReadFrequently: true}));
    }

    /**
     * A canvas with the mask on it, opaque white where it is painted, to draw on.
     * @param {Mask} mask
     */
    function easel(mask) {
        const ctx = context(mask.w, mask.h);
        const image = ctx.createImageData(mask.w, mask.h);
        mask.data.forEach((value, i) => image.data.fill(255 * value, 4 * i, 4 * i + 4));
        ctx.putImageData(image, 0, 0);
        return ctx;
    }

    /**
     * The mask that is on a canvas; a pixel counts from half its cover on.
     * @param {CanvasRenderingContext2D} ctx
     * @returns {Mask}
     */
    function read(ctx) {
        const {width: w, height: h} = ctx.canvas;
        const rgba = ctx.getImageData(0, 0, w, h).data;
        return {w, h, data: Uint8Array.from({length: w * h}, (_, i) => rgba[4 * i + 3] >> 7)};
    }

    /**
     * One stroke of a round brush from a to b; rx, ry are its radii as fractions of width and height.
     * @param {CanvasRenderingContext2D} ctx
     * @param {Point} a
     * @param {Point} b
     * @param {number} rx
     * @param {number} ry
     * @param {boolean} paint false takes away
     */
    function stroke(ctx, a, b, rx, ry, paint) {
        const {width, height} = ctx.canvas;
        const [sx, sy] = [Math.max(rx * width, 0.5), Math.max(ry * height, 0.5)]; // one unit is the brush's radius
        /** @type {(point: Point) => Point} */
        const at = ([x, y]) => [(x * width) / sx, (y * height) / sy];
        ctx.save();
        ctx.scale(sx, sy);
        ctx.globalCompositeOperation = paint ? "source-over" : "destination-out";
        ctx.fillStyle = ctx.strokeStyle = "#fff";
        ctx.lineCap = "round";
        ctx.lineWidth = 2;
        ctx.beginPath();
        ctx.moveTo(...at(a));
        ctx.lineTo(...at(b));
        ctx.stroke();
        ctx.beginPath();
        ctx.arc(...at(b), 1, 0, 7); // a line without length has no cap
        ctx.fill();
        ctx.restore();
    }

    /**
     * Fills an outline by the even-odd rule, or takes it away.
     * @param {CanvasRenderingContext2D} ctx
     * @param {Point[]} points
     * @param {boolean} paint
     */
    function fillPolygon(ctx, points, paint) {
        const {width, height} = ctx.canvas;
        ctx.save();
        ctx.globalCompositeOperation = paint ? "source-over" : "destination-out";
        ctx.fillStyle = "#fff";
        ctx.beginPath();
        for (const [x, y] of points) ctx.lineTo(x * width, y * height);
        ctx.fill("evenodd");
        ctx.restore();
    }

    // ---- the spec's shapes ---------------------------------------------------------------------------------------

    /**
     * @param {string} png
     * @param {Mask | null} mask
     */
    function keep(png, mask) {
        if (known.size >= CACHE) known.delete(String(known.keys().next().value));
        known.set(png, mask);
    }

    /**
     * The spec's shape: a PNG, transparent where nothing is painted.
     * @param {Mask} mask
     * @returns {Shape}
     */
    function toShape(mask) {
        const png = easel(mask).canvas.toDataURL("image/png").split(",")[1];
        keep(png, mask);
        return {t: "png", png};
    }

    /**
     * A shape's mask; null while its PNG is being read, and for one that cannot be read. Not to be changed.
     * @param {Shape} shape
     * @returns {Mask | null}
     */
    function ofShape(shape) {
        if (shape.live) return shape.live;
        const {png} = shape;
        if (typeof png !== "string") return null;
        const mask = known.get(png);
        if (mask === undefined && !reading.has(png)) readPng(png);
        return mask ?? null;
    }

    /**
     * Is this a PNG that may be a mask soon?
     * @param {Shape} shape
     */
    const isPending = (shape) => shape.png !== undefined && reading.has(shape.png);

    /** @param {string} png */
    function readPng(png) {
        reading.add(png);
        const image = new Image();
        /** @param {Mask | null} mask */
        const done = (mask) => {
            reading.delete(png);
            keep(png, mask);
            readers.forEach((call) => call());
        };
        image.onload = () => done(fromImage(image, image.naturalWidth, image.naturalHeight));
        image.onerror = () => done(null);
        image.src = png.startsWith("data:") ? png : `data:image/png;base64,${png}`;
    }

    /**
     * A picture as a mask of w x h: see `fromPixels`.
     * @param {HTMLImageElement} image
     * @param {number} w
     * @param {number} h
     */
    function fromImage(image, w, h) {
        const ctx = context(w, h);
        ctx.drawImage(image, 0, 0, w, h);
        return fromPixels(ctx.getImageData(0, 0, w, h).data, w, h);
    }

    /**
     * Mask from RGBA pixels: opaque ones where the picture has transparency, else those brighter than half.
     * @param {Uint8ClampedArray} rgba
     * @param {number} w
     * @param {number} h
     * @returns {Mask}
     */
    function fromPixels(rgba, w, h) {
        let transparent = false;
        for (let i = 3; i < rgba.length && !transparent; i += 4) transparent = rgba[i] < 128;
        const data = new Uint8Array(w * h);
        for (let i = 0; i < data.length; i++) {
            const [r, g, b, a] = rgba.subarray(4 * i, 4 * i + 4);
            data[i] = transparent ? a >> 7 : Number(0.299 * r + 0.587 * g + 0.114 * b > 127);
        }
        return {w, h, data};
    }

    /**
     * @param {Box} box
     * @returns {Point[]}
     */
    const boxPoints = ([x0, y0, x1, y1]) => [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];

    /**
     * Any shape as a mask for a picture of width x height; null for a shape that cannot be drawn here.
     * @param {Shape} shape
     * @param {number} width
     * @param {number} height
     * @returns {Mask | null}
     */
    function rasterise(shape, width, height) {
        if (shape.t !== "box" && shape.t !== "poly") return ofShape(shape);
        const ctx = easel(create(width, height));
        fillPolygon(ctx, shape.t === "box" ? boxPoints(shape.r) : shape.p, true);
        return read(ctx);
    }

    // ---- pixels --------------------------------------------------------------------------------------------------

    /**
     * Mask moved by whole pixels, nearest to (dx, dy) in fractions; what leaves the picture is lost.
     * @param {Mask} mask
     * @param {number} dx
     * @param {number} dy
     * @returns {Mask}
     */
    function move(mask, dx, dy) {
        const sx = Math.round(dx * mask.w);
        const sy = Math.round(dy * mask.h);
        const moved = {w: mask.w, h: mask.h, data: new Uint8Array(mask.data.length)};
        for (let y = Math.max(0, sy); y < Math.min(mask.h, mask.h + sy); y++) {
            const from = (y - sy) * mask.w;
            const row = mask.data.subarray(from + Math.max(0, -sx), from + mask.w - Math.max(0, sx));
            moved.data.set(row, y * mask.w + Math.max(0, sx));
        }
        return moved;
    }

    /**
     * @param {Mask} mask
     * @returns {Mask}
     */
    const invert = (mask) => ({w: mask.w, h: mask.h, data: mask.data.map((value) => 1 - value)});

    /**
     * Smallest box around the painted pixels, as fractions; null when there are none.
     * @param {Mask} mask
     * @returns {Box | null}
     */
    function bounds(mask) {
        let [x0, y0, x1, y1] = [mask.w, mask.h, -1, -1];
        for (let y = 0; y < mask.h; y++) {
            const row = mask.data.subarray(y * mask.w, (y + 1) * mask.w);
            const first = row.indexOf(1);
            if (first < 0) continue;
            [x0, x1] = [Math.min(x0, first), Math.max(x1, row.lastIndexOf(1))];
            [y0, y1] = [Math.min(y0, y), y];
        }
        return y1 < 0 ? null : [x0 / mask.w, y0 / mask.h, (x1 + 1) / mask.w, (y1 + 1) / mask.h];
    }

    /**
     * Is the pixel under (x, y) painted?
     * @param {Mask} mask
     * @param {number} x
     * @param {number} y
     */
    function hit(mask, x, y) {
        const px = Math.floor(x * mask.w);
        const py = Math.floor(y * mask.h);
        return px >= 0 && py >= 0 && px < mask.w && py < mask.h && mask.data[py * mask.w + px] === 1;
    }

    /**
     * Runs [x0, x1, y] of painted pixels and the border as segments [xa, ya, xb, yb], both in pixels, for drawing.
     * @param {Mask} mask
     */
    function outline(mask) {
        const {w, h, data} = mask;
        /**
         * @param {number} x
         * @param {number} y
         */
        const at = (x, y) => (x >= 0 && y >= 0 && x < w && y < h ? data[y * w + x] : 0);
        /** @type {[number, number, number][]} */
        const runs = [];
        /** @type {Box[]} */
        const border = [];
        for (let y = 0; y <= h; y++) {
            let run = -1;
            let line = -1;
            for (let x = 0; x <= w; x++) {
                const here = at(x, y);
                if (here && run < 0) run = x;
                if (!here && run >= 0) {
                    runs.push([run, x, y]);
                    run = -1;
                }
                const edge = x < w && here !== at(x, y - 1);
                if (edge && line < 0) line = x;
                if (!edge && line >= 0) {
                    border.push([line, y, x, y]);
                    line = -1;
                }
            }
        }
        for (let x = 0; x <= w; x++) {
            let line = -1;
            for (let y = 0; y <= h; y++) {
                const edge = y < h && at(x, y) !== at(x - 1, y);
                if (edge && line < 0) line = y;
                if (!edge && line >= 0) {
                    border.push([x, line, x, y]);
                    line = -1;
                }
            }
        }
        return {runs, border};
    }

    return {
        LONG_SIDE, create, isEmpty, easel, read, stroke, fillPolygon, toShape, ofShape, isPending, readers, fromImage,
        fromPixels, boxPoints, rasterise, move, invert, bounds, hit, outline,
    };
})();
