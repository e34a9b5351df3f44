"use strict";

const assert = require("node:assert/strict");
const {test} = require("node:test");
const {load, plain} = require("./page.js");

/** A mask from rows of "." and "#". */
const drawn = (...rows) => ({w: rows[0].length, h: rows.length, data: Uint8Array.from(rows.join(""), (c) => Number(c === "#"))});
const rows = (mask) => Array.from({length: mask.h}, (_, y) => [...mask.data.slice(y * mask.w, (y + 1) * mask.w)].map((v) => ".#"[v]).join(""));

test("a shape holds the mask as a PNG, and is a mask again at once", () => {
    const {mask} = load(/regional/).loraclrRegional;
    const shape = mask.toShape(drawn(".##.", "####"));
    assert.equal(shape.t, "png");
    assert.doesNotMatch(shape.png, /[:,]/); // base64 alone, no data URL
    assert.deepEqual(rows(mask.ofShape(shape)), [".##.", "####"]);
});

test("a PNG from elsewhere is read in the background, and whoever waits is called", async() => {
    const {png} = load(/regional/).loraclrRegional.mask.toShape(drawn("#..", ".##"));
    const {mask} = load(/regional/).loraclrRegional; // a page that has not drawn it
    for (const text of [png, `data:image/png;base64,${png}`]) {
        const read = new Promise((resolve) => mask.readers.add(resolve));
        assert.equal(mask.ofShape({t: "png", png: text}), null);
        assert.equal(mask.isPending({t: "png", png: text}), true);
        await read;
        assert.equal(mask.isPending({t: "png", png: text}), false);
        assert.deepEqual(rows(mask.ofShape({t: "png", png: text})), ["#..", ".##"]);
    }
});

test("shapes of the first version are the server's business", () => {
    const {mask, document: {drawable}} = load(/regional/).loraclrRegional;
    const old = {t: "mask", w: 3, h: 2, bits: 1, z: "eNrbAgAAtQC1"};
    assert.equal(mask.ofShape(old), null);
    assert.equal(mask.isPending(old), false);
    assert.equal(drawable(old), false);
});

test("pixels count by transparency where there is some, else by brightness", () => {
    const {mask} = load(/regional/).loraclrRegional;
    const pixels = (...rgba) => Uint8ClampedArray.from(rgba);
    assert.deepEqual(rows(mask.fromPixels(pixels(255, 255, 255, 0, 0, 0, 0, 255), 2, 1)), [".#"]);
    assert.deepEqual(rows(mask.fromPixels(pixels(255, 255, 255, 255, 9, 9, 9, 255), 2, 1)), ["#."]);
});

test("a new mask has square pixels and sides that are multiples of 8", () => {
    const {mask} = load(/regional/).loraclrRegional;
    const {w, h, data} = mask.create(512, 768);
    assert.deepEqual([w, h, data.length], [168, 256, 168 * 256]);
    assert.equal(mask.isEmpty({w, h, data}), true);
});

test("moving, inverting, bounds, hits and the border", () => {
    const {mask} = load(/regional/).loraclrRegional;
    const spot = drawn("....", ".#..", "....", "....");
    assert.deepEqual(rows(mask.move(spot, 0.5, 0.25)), ["....", "....", "...#", "...."]);
    assert.deepEqual(rows(mask.move(spot, 1, 0)), ["....", "....", "....", "...."]);
    assert.deepEqual(rows(mask.invert(spot))[1], "#.##");
    assert.deepEqual(plain(mask.bounds(spot)), [0.25, 0.25, 0.5, 0.5]);
    assert.equal(mask.bounds(drawn("..")), null);
    assert.equal(mask.hit(spot, 0.3, 0.3), true);
    assert.equal(mask.hit(spot, 0.6, 0.3), false);
    const {runs, border} = mask.outline(spot);
    assert.deepEqual(plain(runs), [[1, 2, 1]]);
    assert.equal(border.length, 4); // the four sides of one pixel
});
