"use strict";

const assert = require("node:assert/strict");
const {test} = require("node:test");
const {load} = require("./page.js");

const {Bridge} = load(/bridge/).loraclrBridge;

/** A bridge whose questions wait until they are answered by hand. */
function held() {
    const asked = [];
    const bridge = new Bridge("part", (endpoint, text) => new Promise((resolve, reject) => {
        const question = JSON.parse(text);
        const answer = (reply = {}, serial = question.serial) => resolve(JSON.stringify({serial, ...reply}));
        asked.push({endpoint, question, answer, resolve, reject});
    }));
    return {bridge, asked};
}

test("every question has a serial number of its own, and its answer comes back with it", async() => {
    const {bridge, asked} = held();
    const answers = [bridge.ask("open", {refresh: true}), bridge.ask("poll", {task: "x"})];
    assert.deepEqual(asked.map((one) => one.endpoint), ["part", "part"]);
    assert.deepEqual(asked.map((one) => one.question), [{refresh: true, serial: 1, question: "open"}, {task: "x", serial: 2, question: "poll"}]);
    asked[1].answer({running: false}); // answers may come in any order
    asked[0].answer({names: []});
    const [open, poll] = await Promise.all(answers);
    assert.equal(poll.running, false);
    assert.equal(open.names.length, 0);
    assert.deepEqual([open.serial, poll.serial], [1, 2]);
});

test("of several waiting questions of one name only the last is asked", async() => {
    const {bridge, asked} = held();
    const answers = [1, 2, 3, 4].map((value) => bridge.ask("costs", {value}));
    assert.equal(asked.length, 1);
    asked[0].answer({costs: "a"});
    assert.equal((await answers[0]).costs, "a");
    assert.deepEqual([await answers[1], await answers[2]], [null, null]);
    assert.deepEqual(asked.map((one) => one.question.value), [1, 4]);
    asked[1].answer({costs: "b"});
    assert.equal((await answers[3]).costs, "b");
    const later = bridge.ask("costs", {value: 5});
    assert.equal(asked[2].question.serial, 3);
    asked[2].answer();
    assert.equal((await later).serial, 3);
});

test("no answer, a wrong one and one to another question are errors, never exceptions", async(context) => {
    context.mock.method(console, "error", () => {});
    for (const end of [(one) => one.reject(new Error("gone")), (one) => one.answer({}, 99), (one) => one.resolve("<html>")]) {
        const {bridge, asked} = held();
        const answer = bridge.ask("open");
        end(asked[0]);
        assert.equal((await answer).error.code, "no-answer");
        const next = bridge.ask("open"); // the next question is asked all the same
        asked[1].answer({names: ["a"]});
        assert.equal((await next).names.length, 1);
    }
});
