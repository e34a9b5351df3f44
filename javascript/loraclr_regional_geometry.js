/* Geometry of regions: boxes, polygons, snapping, grids. Pure functions, no DOM.
 * Coordinates are fractions of the picture, x to the right, y down; a box is [x0, y0, x1, y1]. */
"use strict";

/**
 * @typedef {[number, number]} Point
 * @typedef {[number, number, number, number]} Box
 * @typedef {"nw" | "n" | "ne" | "e" | "se" | "s" | "sw" | "w"} Handle
 * @typedef {{height: number, widths: number[]}} GridRow
 */

var loraclrRegional = loraclrRegional || {};

loraclrRegional.geometry = (() => {
    /** @type {Handle[]} */
    const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
    const MIN_SIDE = 0.005;

    /**
     * @param {number} value
     * @param {number} low
     * @param {number} high
     */
    const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
    /** @param {number} value */
    const round = (value) => Math.round(value * 1e4) / 1e4;
    /** @param {number} value */
    const unit = (value) => round(clamp(value, 0, 1));
    /**
     * @param {Box} box
     * @returns {Box}
     */
    const roundBox = ([x0, y0, x1, y1]) => [unit(x0), unit(y0), unit(x1), unit(y1)];

    /**
     * Box from two corners in any order, at least MIN_SIDE wide and high, inside the picture.
     * @param {number} ax
     * @param {number} ay
     * @param {number} bx
     * @param {number} by
     * @returns {Box}
     */
    function boxFromCorners(ax, ay, bx, by) {
        /**
         * @param {number} a
         * @param {number} b
         */
        const span = (a, b) => {
            let low = clamp(Math.min(a, b), 0, 1);
            const high = Math.max(clamp(Math.max(a, b), 0, 1), Math.min(1, low + MIN_SIDE));
            low = Math.min(low, high - MIN_SIDE);
            return [low, high];
        };
        const [x0, x1] = span(ax, bx);
        const [y0, y1] = span(ay, by);
        return [x0, y0, x1, y1];
    }

    /**
     * Box moved by (dx, dy), kept whole inside the picture.
     * @param {Box} box
     * @param {number} dx
     * @param {number} dy
     * @returns {Box}
     */
    function moveBox(box, dx, dy) {
        const mx = clamp(dx, -box[0], 1 - box[2]);
        const my = clamp(dy, -box[1], 1 - box[3]);
        return [box[0] + mx, box[1] + my, box[2] + mx, box[3] + my];
    }

    /**
     * Box with the dragged handle at (x, y); `ratio` (width / height, in fractions) keeps its shape.
     * @param {Box} box
     * @param {Handle} handle
     * @param {number} x
     * @param {number} y
     * @param {number | null} [ratio]
     * @returns {Box}
     */
    function resizeBox(box, handle, x, y, ratio) {
        let [x0, y0, x1, y1] = box;
        const west = handle.includes("w");
        const north = handle.includes("n");
        if (west) x0 = Math.min(x, x1 - MIN_SIDE);
        if (handle.includes("e")) x1 = Math.max(x, x0 + MIN_SIDE);
        if (north) y0 = Math.min(y, y1 - MIN_SIDE);
        if (handle.includes("s")) y1 = Math.max(y, y0 + MIN_SIDE);
        if (!ratio) return boxFromCorners(x0, y0, x1, y1);
        let width = x1 - x0;
        let height = y1 - y0;
        if (handle === "n" || handle === "s" || (handle.length === 2 && height * ratio > width)) width = height * ratio;
        else height = width / ratio;
        const room = Math.min(1, (west ? x1 : 1 - x0) / width, (north ? y1 : 1 - y0) / height);
        width *= room;
        height *= room;
        if (west) x0 = x1 - width; else x1 = x0 + width;
        if (north) y0 = y1 - height; else y1 = y0 + height;
        return [x0, y0, x1, y1];
    }

    /**
     * [name, x, y] of the eight handles.
     * @param {Box} box
     * @returns {[Handle, number, number][]}
     */
    function handlePoints(box) {
        const [x0, y0, x1, y1] = box;
        const mx = (x0 + x1) / 2;
        const my = (y0 + y1) / 2;
        /** @type {Record<Handle, Point>} */
        const at = {nw: [x0, y0], n: [mx, y0], ne: [x1, y0], e: [x1, my], se: [x1, y1], s: [mx, y1], sw: [x0, y1], w: [x0, my]};
        return HANDLES.map((name) => [name, ...at[name]]);
    }

    /**
     * Handle under (x, y) within (tx, ty), corners before edges; an edge counts along its whole length.
     * @param {Box} box
     * @param {number} x
     * @param {number} y
     * @param {number} tx
     * @param {number} ty
     * @returns {Handle | null}
     */
    function hitHandle(box, x, y, tx, ty) {
        const [x0, y0, x1, y1] = box;
        if (x < x0 - tx || x > x1 + tx || y < y0 - ty || y > y1 + ty) return null;
        /**
         * @param {number} a
         * @param {number} b
         * @param {number} tolerance
         */
        const near = (a, b, tolerance) => Math.abs(a - b) <= tolerance;
        const vertical = near(y, y0, ty) && (y1 - y0 > 2 * ty || y <= (y0 + y1) / 2) ? "n" : near(y, y1, ty) ? "s" : "";
        const horizontal = near(x, x0, tx) && (x1 - x0 > 2 * tx || x <= (x0 + x1) / 2) ? "w" : near(x, x1, tx) ? "e" : "";
        return /** @type {Handle} */ (vertical + horizontal) || null;
    }

    /**
     * @param {Box} box
     * @param {number} x
     * @param {number} y
     */
    const inBox = (box, x, y) => x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3];

    /**
     * Even-odd rule.
     * @param {Point[]} points
     * @param {number} x
     * @param {number} y
     */
    function inPolygon(points, x, y) {
        let inside = false;
        for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
            const [xi, yi] = points[i];
            const [xj, yj] = points[j];
            if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
        }
        return inside;
    }

    /**
     * @param {Point[]} points
     * @returns {Box}
     */
    function bounds(points) {
        const xs = points.map((p) => p[0]);
        const ys = points.map((p) => p[1]);
        return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    }

    /**
     * Shoelace formula, always positive.
     * @param {Point[]} points
     */
    function area(points) {
        let twice = 0;
        for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
            twice += points[j][0] * points[i][1] - points[i][0] * points[j][1];
        }
        return Math.abs(twice) / 2;
    }

    /**
     * Points moved by (dx, dy), kept whole inside the picture.
     * @param {Point[]} points
     * @param {number} dx
     * @param {number} dy
     * @returns {Point[]}
     */
    function movePoints(points, dx, dy) {
        const box = bounds(points);
        const moved = moveBox(box, dx, dy);
        const mx = moved[0] - box[0];
        const my = moved[1] - box[1];
        return points.map(([x, y]) => [x + mx, y + my]);
    }

    /**
     * Points scaled so that their bounds `from` become `to`.
     * @param {Point[]} points
     * @param {Box} from
     * @param {Box} to
     * @returns {Point[]}
     */
    function fitPoints(points, from, to) {
        const sx = (to[2] - to[0]) / Math.max(from[2] - from[0], 1e-9);
        const sy = (to[3] - to[1]) / Math.max(from[3] - from[1], 1e-9);
        return points.map(([x, y]) => [to[0] + (x - from[0]) * sx, to[1] + (y - from[1]) * sy]);
    }

    /**
     * Squared distance of p to the segment a-b; sx, sy scale to one unit in both directions.
     * @param {Point} p
     * @param {Point} a
     * @param {Point} b
     * @param {number} sx
     * @param {number} sy
     */
    function segmentDistance(p, a, b, sx = 1, sy = 1) {
        const ux = (b[0] - a[0]) * sx;
        const uy = (b[1] - a[1]) * sy;
        const vx = (p[0] - a[0]) * sx;
        const vy = (p[1] - a[1]) * sy;
        const length = ux * ux + uy * uy;
        const t = length ? clamp((vx * ux + vy * uy) / length, 0, 1) : 0;
        return (vx - t * ux) ** 2 + (vy - t * uy) ** 2;
    }

    /**
     * Index of the vertex within `tolerance` (in scaled units), or -1.
     * @param {Point[]} points
     * @param {number} x
     * @param {number} y
     * @param {number} tolerance
     * @param {number} sx
     * @param {number} sy
     */
    function nearestVertex(points, x, y, tolerance, sx = 1, sy = 1) {
        let best = -1;
        let least = tolerance * tolerance;
        points.forEach((p, i) => {
            const distance = ((p[0] - x) * sx) ** 2 + ((p[1] - y) * sy) ** 2;
            if (distance <= least) [best, least] = [i, distance];
        });
        return best;
    }

    /**
     * Index i of the edge (i, i + 1) within `tolerance`, or -1; a new vertex goes in at i + 1.
     * @param {Point[]} points
     * @param {number} x
     * @param {number} y
     * @param {number} tolerance
     * @param {number} sx
     * @param {number} sy
     */
    function nearestEdge(points, x, y, tolerance, sx = 1, sy = 1) {
        let best = -1;
        let least = tolerance * tolerance;
        points.forEach((p, i) => {
            const distance = segmentDistance([x, y], p, points[(i + 1) % points.length], sx, sy);
            if (distance <= least) [best, least] = [i, distance];
        });
        return best;
    }

    /**
     * Ramer, Douglas and Peucker: fewer points, none further than `tolerance` from the line drawn.
     * @param {Point[]} points
     * @param {number} tolerance
     * @returns {Point[]}
     */
    function simplify(points, tolerance) {
        if (points.length < 3) return points.slice();
        const keep = new Uint8Array(points.length);
        keep[0] = keep[points.length - 1] = 1;
        /** @type {Point[]} ranges still to look at */
        const stack = [[0, points.length - 1]];
        for (let range = stack.pop(); range; range = stack.pop()) {
            const [from, to] = range;
            let worst = tolerance * tolerance;
            let at = -1;
            for (let i = from + 1; i < to; i++) {
                const distance = segmentDistance(points[i], points[from], points[to]);
                if (distance > worst) [worst, at] = [distance, i];
            }
            if (at >= 0) {
                keep[at] = 1;
                stack.push([from, at], [at, to]);
            }
        }
        return points.filter((_, i) => keep[i]);
    }

    /**
     * Moves values by one shift so that one of them meets a target within `tolerance`; says which line was met.
     * @param {number[]} values
     * @param {number[]} targets
     * @param {number} tolerance
     */
    function snapShift(values, targets, tolerance) {
        /** @type {{shift: number, line: number | null}} */
        let best = {shift: 0, line: null};
        let least = tolerance;
        for (const value of values) {
            for (const target of targets) {
                const distance = Math.abs(target - value);
                if (distance < least - 1e-9) {
                    least = distance;
                    best = {shift: target - value, line: target};
                }
            }
        }
        return best;
    }

    /**
     * Lines worth snapping to along one axis: picture edges, thirds, eighths, and the other regions' edges and centres.
     * @param {Box[]} boxes
     * @param {0 | 1} axis
     */
    function snapTargets(boxes, axis) {
        const lines = [0, 1 / 3, 2 / 3, 1];
        for (let i = 1; i < 8; i++) lines.push(i / 8);
        for (const box of boxes) lines.push(box[axis], (box[axis] + box[axis + 2]) / 2, box[axis + 2]);
        return lines;
    }

    /**
     * "1,2;1,1" as [{height, widths}], or null: rows behind ";", and in several rows the first number is the row's height.
     * @param {string} text
     * @returns {GridRow[] | null}
     */
    function parseGrid(text) {
        const rows = String(text).split(";").map((row) => row.split(",").map((part) => (part.trim() === "" ? NaN : Number(part))));
        if (!rows.flat().every((value) => Number.isFinite(value) && value > 0)) return null;
        if (rows.length === 1) return [{height: 1, widths: rows[0]}];
        return rows.map(([height, ...widths]) => ({height, widths: widths.length ? widths : [1]}));
    }

    /**
     * Boxes of a nested grid, row by row; with `transpose` rows become columns.
     * @param {GridRow[]} rows
     * @param {boolean} transpose
     * @returns {Box[]}
     */
    function gridBoxes(rows, transpose = false) {
        const boxes = [];
        const total = rows.reduce((sum, row) => sum + row.height, 0);
        let above = 0;
        for (const {height, widths} of rows) {
            const y0 = above / total;
            const y1 = (above + height) / total;
            above += height;
            const whole = widths.reduce((sum, width) => sum + width, 0);
            let left = 0;
            for (const width of widths) {
                /** @type {Box} */
                const box = [left / whole, y0, (left + width) / whole, y1];
                left += width;
                boxes.push(roundBox(transpose ? [box[1], box[0], box[3], box[2]] : box));
            }
        }
        return boxes;
    }

    /**
     * Picture rectangle {x, y, width, height} that shows a w x h picture as large as possible in a frame.
     * @param {number} frameWidth
     * @param {number} frameHeight
     * @param {number} width
     * @param {number} height
     * @param {number} margin
     */
    function fitRect(frameWidth, frameHeight, width, height, margin) {
        const scale = Math.max(1e-6, Math.min((frameWidth - 2 * margin) / width, (frameHeight - 2 * margin) / height));
        const w = width * scale;
        const h = height * scale;
        return {x: (frameWidth - w) / 2, y: (frameHeight - h) / 2, width: w, height: h};
    }

    return {
        HANDLES, MIN_SIDE, clamp, round, roundBox, boxFromCorners, moveBox, resizeBox, handlePoints, hitHandle, inBox,
        inPolygon, bounds, area, movePoints, fitPoints, segmentDistance, nearestVertex, nearestEdge, simplify, snapShift,
        snapTargets, parseGrid, gridBoxes, fitRect,
    };
})();
