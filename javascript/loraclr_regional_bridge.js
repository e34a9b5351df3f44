/* Between the panel and gradio: the hidden spec text, and questions to the server through two hidden texts.
 * Going through gradio rather than own routes keeps the page's login and works without --api. */
"use strict";

var loraclrRegional = window.loraclrRegional || {};

(() => {
    const R = loraclrRegional;
    const TIMEOUT_MS = 30000;
    const bridges = new Map();

    const app = () => (typeof gradioApp === "function" ? gradioApp() : document);

    const input = (id) => app().querySelector(`#${id} textarea, #${id} input`);

    /** Sets a gradio text as if it had been typed. */
    function write(element, value) {
        element.value = value;
        element.dispatchEvent(new Event("input", {bubbles: true}));
    }

    class Bridge {
        constructor(ids) {
            this.ids = ids;
            this.serial = 0;
            this.waiting = [];
            this.running = null;
            this.written = null;
            this.received = () => {};
            bridges.set(ids.tab, this);
        }

        /** The spec as the panel has it now, for the next generation. */
        put(text) {
            const element = input(this.ids.spec);
            if (!element || text === this.written) return;
            this.written = text;
            write(element, text);
        }

        /** The spec as the server has it (saved settings, page reload). */
        get() {
            const element = input(this.ids.spec);
            return element ? element.value : "";
        }

        /** Asks the server; of several waiting questions of one kind only the last is asked, the others resolve to null. */
        ask(question, data = {}) {
            return new Promise((resolve) => {
                const same = this.waiting.findIndex((other) => other.question === question);
                if (same >= 0) this.waiting.splice(same, 1)[0].resolve(null);
                this.waiting.push({question, data, resolve});
                this.next();
            });
        }

        next() {
            if (this.running || !this.waiting.length) return;
            const element = input(this.ids.question);
            const one = this.waiting.shift();
            if (!element) {
                one.resolve(null);
                return;
            }
            one.serial = ++this.serial;
            one.timer = setTimeout(() => this.finish(one.serial, {error: {message: "The server did not answer."}}), TIMEOUT_MS);
            this.running = one;
            write(element, JSON.stringify({serial: one.serial, question: one.question, ...one.data}));
        }

        finish(serial, answer) {
            const one = this.running;
            if (!one || one.serial !== serial) return;
            clearTimeout(one.timer);
            this.running = null;
            one.resolve(answer);
            this.next();
        }
    }

    /** gradio calls this when the server has set the spec (pasted parameters, "send to"). */
    function specChanged(tab, text) {
        const bridge = bridges.get(tab);
        if (!bridge || text === bridge.written) return;
        bridge.written = text;
        bridge.received(text || "");
    }

    /** gradio calls this when the server has answered. */
    function answered(tab, text) {
        const bridge = bridges.get(tab);
        if (!bridge || !text) return;
        const answer = JSON.parse(text);
        bridge.finish(answer.serial, answer);
    }

    R.bridge = {Bridge, app, input, write, specChanged, answered};
})();
