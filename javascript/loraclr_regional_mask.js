/* Painted masks: bitmaps of 0 and 1 with strokes, filled outlines and the text form of the spec. No DOM.
 * A mask is {w, h, data}; points are fractions of the picture, so a mask follows the picture's size. */
"use strict";

var loraclrRegional = window.loraclrRegional || {};

(() => {
    const R = loraclrRegional;
    const LONG_SIDE = 256;
    const MAX_SIDE = 2048;
    const CACHE = 64;
    const decoded = new Map();

    /** Empty mask with square pixels for a picture of width x height; sides are multiples of 8. */
    function create(width, height) {
        const scale = LONG_SIDE / Math.max(width, height);
        const side = (length) => Math.max(8, Math.round((length * scale) / 8) * 8);
        const [w, h] = [side(width), side(height)];
        return {w, h, data: new Uint8Array(w * h)};
    }

    const copy = (mask) => ({w: mask.w, h: mask.h, data: mask.data.slice()});
    const isEmpty = (mask) => !mask.data.includes(1);

    /** Fraction of the picture that is covered. */
    function coverage(mask) {
        let count = 0;
        for (const value of mask.data) count += value;
        return count / mask.data.length;
    }

    /** The spec's shape: one bit a pixel, rows one after the other, first pixel in the highest bit, zlib, base64. */
    function toShape(mask) {
        const packed = new Uint8Array(Math.ceil(mask.data.length / 8));
        mask.data.forEach((value, i) => {
            if (value) packed[i >> 3] |= 128 >> (i & 7);
        });
        return {t: "mask", w: mask.w, h: mask.h, bits: 1, z: R.zlib.toBase64(R.zlib.deflate(packed))};
    }

    /** Mask of a shape; throws when the text is damaged. The result is shared: copy before changing it. */
    function fromShape(shape) {
        const bits = shape.bits === 8 ? 8 : 1;
        const key = `${shape.w}x${shape.h}x${bits}:${shape.z}`;
        if (decoded.has(key)) return decoded.get(key);
        const {w, h} = shape;
        if (!(w > 0 && h > 0 && w <= MAX_SIDE && h <= MAX_SIDE)) throw new Error("mask data: wrong size");
        const size = bits === 8 ? w * h : Math.ceil((w * h) / 8);
        const bytes = R.zlib.inflate(R.zlib.fromBase64(shape.z), size);
        if (bytes.length !== size) throw new Error("mask data: too short");
        const data = new Uint8Array(w * h);
        for (let i = 0; i < data.length; i++) {
            data[i] = bits === 8 ? (bytes[i] > 127 ? 1 : 0) : (bytes[i >> 3] >> (7 - (i & 7))) & 1;
        }
        const mask = {w, h, data};
        if (decoded.size >= CACHE) decoded.delete(decoded.keys().next().value);
        decoded.set(key, mask);
        return mask;
    }

    /** Mask of a shape, of one that is being painted as well. */
    const ofShape = (shape) => shape.live || fromShape(shape);

    /** Sets the pixels of row y whose centre lies between x0 and x1 (in pixels). */
    function fillSpan(mask, y, x0, x1, value) {
        const from = Math.max(0, Math.ceil(x0 - 0.5));
        const to = Math.min(mask.w - 1, Math.ceil(x1 - 0.5) - 1);
        if (to >= from) mask.data.fill(value, y * mask.w + from, y * mask.w + to + 1);
    }

    /** One stroke of a round brush from a to b; rx, ry are its radii as fractions of width and height. */
    function stroke(mask, a, b, rx, ry, value) {
        const [px, py] = [Math.max(rx * mask.w, 0.5), Math.max(ry * mask.h, 0.5)];
        const [ax, ay, bx, by] = [a[0] * mask.w, a[1] * mask.h, b[0] * mask.w, b[1] * mask.h];
        const steps = Math.max(1, Math.ceil(Math.hypot((bx - ax) / px, (by - ay) / py) * 4));
        for (let i = 0; i <= steps; i++) {
            const x = ax + ((bx - ax) * i) / steps;
            const y = ay + ((by - ay) * i) / steps;
            const last = Math.min(mask.h - 1, Math.floor(y + py));
            for (let row = Math.max(0, Math.floor(y - py)); row <= last; row++) {
                const t = (row + 0.5 - y) / py;
                if (Math.abs(t) >= 1) continue;
                const half = px * Math.sqrt(1 - t * t);
                fillSpan(mask, row, x - half, x + half, value);
            }
        }
    }

    /** Fills an outline by the even-odd rule at the pixels' centres. */
    function fillPolygon(mask, points, value) {
        for (let row = 0; row < mask.h; row++) {
            const y = (row + 0.5) / mask.h;
            const cuts = [];
            for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
                const [xi, yi] = points[i];
                const [xj, yj] = points[j];
                if (yi > y !== yj > y) cuts.push(((xj - xi) * (y - yi)) / (yj - yi) + xi);
            }
            cuts.sort((p, q) => p - q);
            for (let i = 0; i + 1 < cuts.length; i += 2) fillSpan(mask, row, cuts[i] * mask.w, cuts[i + 1] * mask.w, value);
        }
    }

    const boxPoints = ([x0, y0, x1, y1]) => [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];

    /** Any shape as a new mask for a picture of width x height; null for a shape that cannot be drawn here. */
    function rasterise(shape, width, height) {
        if (shape.t === "mask") return copy(fromShape(shape));
        const mask = create(width, height);
        if (shape.t === "box") fillPolygon(mask, boxPoints(shape.r), 1);
        else if (shape.t === "poly") fillPolygon(mask, shape.p, 1);
        else return null;
        return mask;
    }

    /** Mask moved by whole pixels, nearest to (dx, dy) in fractions; what leaves the picture is lost. */
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

    const invert = (mask) => ({w: mask.w, h: mask.h, data: mask.data.map((value) => 1 - value)});

    /** Smallest box around the painted pixels, as fractions; null when there are none. */
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

    /** Is the pixel under (x, y) painted? */
    function hit(mask, x, y) {
        const px = Math.floor(x * mask.w);
        const py = Math.floor(y * mask.h);
        return px >= 0 && py >= 0 && px < mask.w && py < mask.h && mask.data[py * mask.w + px] === 1;
    }

    /** Mask from RGBA pixels: opaque ones where the picture has transparency, else those brighter than half. */
    function fromPixels(rgba, w, h) {
        let transparent = false;
        for (let i = 3; i < rgba.length && !transparent; i += 4) transparent = rgba[i] < 128;
        const data = new Uint8Array(w * h);
        for (let i = 0; i < data.length; i++) {
            const [r, g, b, a] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2], rgba[4 * i + 3]];
            data[i] = transparent ? (a > 127 ? 1 : 0) : (0.299 * r + 0.587 * g + 0.114 * b > 127 ? 1 : 0);
        }
        return {w, h, data};
    }

    /** Runs [x0, x1, y] of painted pixels and the border as segments [xa, ya, xb, yb], both in pixels, for drawing. */
    function outline(mask) {
        const {w, h, data} = mask;
        const at = (x, y) => (x >= 0 && y >= 0 && x < w && y < h ? data[y * w + x] : 0);
        const runs = [];
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

    R.mask = {
        LONG_SIDE, create, copy, isEmpty, coverage, toShape, fromShape, ofShape, stroke, fillPolygon, boxPoints, rasterise, move, invert,
        bounds, hit, fromPixels, outline,
    };
})();
