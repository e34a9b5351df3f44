"use strict";

const assert = require("node:assert/strict");
const {test} = require("node:test");
const {load, plain} = require("./page.js");

const {geometry} = load(/regional/).loraclrRegional;
const SQUARE = [[0, 0], [1, 0], [1, 1], [0, 1]];

/** Boxes without the last digits. */
const rounded = (box) => plain(box).map((value) => Math.round(value * 1e6) / 1e6);

test("a box has its corners in order, a least size, and lies in the picture", () => {
    assert.deepEqual(rounded(geometry.boxFromCorners(0.8, 0.9, 0.2, 0.1)), [0.2, 0.1, 0.8, 0.9]);
    assert.deepEqual(rounded(geometry.boxFromCorners(-1, -1, 2, 2)), [0, 0, 1, 1]);
    assert.deepEqual(rounded(geometry.boxFromCorners(1, 1, 1, 1)), [0.995, 0.995, 1, 1]);
});

test("a moved box stays whole", () => {
    assert.deepEqual(rounded(geometry.moveBox([0.1, 0.1, 0.4, 0.4], 0.9, -0.5)), [0.7, 0, 1, 0.3]);
});

test("a handle moves its sides only, and keeps the shape where that is asked", () => {
    const box = [0.2, 0.2, 0.6, 0.4];
    assert.deepEqual(rounded(geometry.resizeBox(box, "e", 0.9, 0.9)), [0.2, 0.2, 0.9, 0.4]);
    assert.deepEqual(rounded(geometry.resizeBox(box, "nw", 0.1, 0.1)), [0.1, 0.1, 0.6, 0.4]);
    const [x0, y0, x1, y1] = geometry.resizeBox(box, "se", 0.8, 0.9, 2);
    assert.ok(Math.abs((x1 - x0) / (y1 - y0) - 2) < 1e-9);
    assert.deepEqual([x0, y0], [0.2, 0.2]);
});

test("corners are met before edges", () => {
    const box = [0.2, 0.2, 0.6, 0.6];
    assert.equal(geometry.hitHandle(box, 0.2, 0.2, 0.02, 0.02), "nw");
    assert.equal(geometry.hitHandle(box, 0.4, 0.61, 0.02, 0.02), "s");
    assert.equal(geometry.hitHandle(box, 0.4, 0.4, 0.02, 0.02), null);
});

test("inside, area and bounds of a polygon", () => {
    const star = [[0.5, 0], [0.8, 1], [0, 0.4], [1, 0.4], [0.2, 1]];
    assert.equal(geometry.inPolygon(star, 0.5, 0.2), true);
    assert.equal(geometry.inPolygon(star, 0.5, 0.55), false); // even-odd: the middle of a star is outside
    assert.equal(geometry.area(SQUARE), 1);
    assert.deepEqual(plain(geometry.bounds(star)), [0, 0, 1, 1]);
});

test("simplifying keeps the corners of a line and drops what lies on it", () => {
    const line = Array.from({length: 101}, (_, i) => [i / 100, i < 50 ? 0 : (i - 50) / 50]);
    assert.deepEqual(plain(geometry.simplify(line, 0.005)), [[0, 0], [0.5, 0], [1, 1]]);
});

test("snapping takes the nearest line", () => {
    const {shift, line} = geometry.snapShift([0.1, 0.34], [0, 1 / 3, 0.5], 0.02);
    assert.equal(line, 1 / 3);
    assert.ok(Math.abs(0.34 + shift - 1 / 3) < 1e-12);
    assert.equal(geometry.snapShift([0.1], [0.5], 0.02).line, null);
});

test("ratios become boxes that share their edges; what is no number is none", () => {
    const boxes = plain(geometry.gridBoxes(geometry.parseGrid("1,2,1;2,4,6")));
    assert.deepEqual(boxes, [[0, 0, 0.6667, 0.3333], [0.6667, 0, 1, 0.3333], [0, 0.3333, 0.4, 1], [0.4, 0.3333, 1, 1]]);
    assert.deepEqual(plain(geometry.gridBoxes(geometry.parseGrid("1,1"), true)), [[0, 0, 1, 0.5], [0, 0.5, 1, 1]]);
    for (const text of ["", "1,,1", "1,x", "0,1", "-1"]) assert.equal(geometry.parseGrid(text), null);
});
