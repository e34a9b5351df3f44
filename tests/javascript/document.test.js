"use strict";

const assert = require("node:assert/strict");
const {test} = require("node:test");
const {load, plain} = require("./page.js");

const {document: {RegionalDocument}} = load(/regional/).loraclrRegional;
const FORM = {
    defaults: {
        spec: {v: 1, regions: [], feather: 0.05, isolation: {strength: 0, end: 1}},
        region: {name: "", on: true, order: 0, strength: 1, isolate: true},
    },
    oldNames: {
        spec: {names: {iso: "isolation"}, parts: {isolation: {names: {s: "strength"}, parts: {}}}},
        region: {names: {z: "order", rho: "strength"}, parts: {}},
    },
    colours: ["#000000"],
};
const BOX = {t: "box", r: [0.1, 0.1, 0.5, 0.5]};

/** A document with these regions, and what it told of its changes. */
function made(...regions) {
    const changes = [];
    const doc = new RegionalDocument(FORM, (source) => changes.push(source));
    doc.load(JSON.stringify({v: 1, regions}), {history: false});
    return {doc, changes, now: () => JSON.parse(doc.text())};
}

test("the text leaves defaults out and keeps what this version does not know", () => {
    const {doc, now} = made({id: "a", shape: BOX, prompt: "x", strength: 1, future: {k: [1]}});
    assert.deepEqual(now(), {v: 1, regions: [{id: "a", shape: BOX, prompt: "x", future: {k: [1]}}]});
    doc.set("isolation.strength", 0.5);
    assert.deepEqual(now().isolation, {strength: 0.5});
});

test("keys of earlier versions have their present names", () => {
    const {doc, now} = made();
    doc.load(JSON.stringify({v: 1, iso: {s: 0.7}, regions: [{id: "a", shape: BOX, prompt: "", rho: 0.5, z: 2}]}));
    assert.deepEqual(now(), {v: 1, isolation: {strength: 0.7}, regions: [{id: "a", shape: BOX, prompt: "", order: 2, strength: 0.5}]});
});

test("what is no layout is said, and changes nothing", () => {
    const {doc, now} = made({id: "a", shape: BOX, prompt: "x"});
    const before = now();
    for (const text of ["{", "[]", '{"regions": 5}', '{"regions": [1]}']) assert.match(doc.load(text), /\.$|JSON/);
    assert.deepEqual(now(), before);
});

test("undo and redo go through every step; typing is one step", () => {
    const {doc, now} = made({id: "a", shape: BOX, prompt: ""});
    const empty = now();
    for (const prompt of ["o", "on", "one"]) doc.update("a", {prompt}, "prompt a");
    doc.add(BOX);
    assert.deepEqual(now().regions.map((region) => region.id), ["a", "r1"]);
    assert.equal(doc.undo(), true);
    assert.equal(now().regions[0].prompt, "one");
    assert.equal(doc.undo(), true);
    assert.deepEqual(now(), empty);
    assert.equal(doc.undo(), false);
    doc.redo();
    doc.redo();
    assert.equal(now().regions.length, 2);
    assert.equal(doc.redo(), false);
});

test("new regions lie on top; the stack is changed step by step", () => {
    const {doc, now} = made({id: "a", shape: BOX, prompt: ""});
    doc.add(BOX);
    doc.add(BOX);
    assert.deepEqual(now().regions.map((region) => region.order ?? 0), [0, 1, 2]);
    doc.restack("a", Infinity);
    assert.deepEqual(plain(doc.stacked().map((region) => region.id)), ["r1", "r2", "a"]);
    assert.equal(doc.hit(0.2, 0.2).id, "a");
    assert.equal(doc.hit(0.2, 0.2, "a").id, "r2");
    assert.equal(doc.hit(0.9, 0.9), null);
});

test("a grid keeps the prompts in order, and regions beyond it that have one", () => {
    const {doc, now} = made({id: "a", shape: BOX, prompt: "one"}, {id: "b", shape: BOX, prompt: ""}, {id: "c", shape: BOX, prompt: "three"});
    doc.applyGrid([[0, 0, 1, 1]]);
    assert.deepEqual(now().regions.map((region) => region.prompt), ["one", "three"]);
    assert.deepEqual(now().regions[0].shape, {t: "box", r: [0, 0, 1, 1]});
});

test("ids are unique, whatever came in", () => {
    const {now} = made({id: "a", shape: BOX}, {id: "a", shape: BOX}, {shape: BOX});
    assert.equal(new Set(now().regions.map((region) => region.id)).size, 3);
});
