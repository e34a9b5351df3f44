/* Questions from the page to the server and their answers: JSON both ways, no exceptions.
 * A question goes to an endpoint of gradio's own (frontends/gradio_compat.py), so that the page's login holds. */
"use strict";

var loraclrBridge = (() => {
    const TIMEOUT_MS = 60000;

    /** @returns {Document | ShadowRoot | HTMLElement} where gradio's components are */
    const app = () => (typeof gradioApp === "function" ? gradioApp() : document);

    /**
     * The text field of a gradio component.
     * @param {string} id
     * @returns {HTMLInputElement | HTMLTextAreaElement | null}
     */
    const input = (id) => app().querySelector(`#${id} textarea, #${id} input`);

    /**
     * Sets a gradio text as if it had been typed.
     * @param {HTMLInputElement | HTMLTextAreaElement} element
     * @param {string} value
     */
    function write(element, value) {
        element.value = value;
        element.dispatchEvent(new Event("input", {bubbles: true}));
    }

    /**
     * Calls a gradio endpoint that takes one text and returns one.
     * @param {string} endpoint
     * @param {string} text
     * @returns {Promise<string>}
     */
    async function post(endpoint, text) {
        const root = String(window.gradio_config?.root ?? "").replace(/\/$/, "");
        const response = await fetch(`${root}/run/${endpoint}`, {
            method: "POST",
            headers: {"Content-Type": "application/json"},
            body: JSON.stringify({data: [text]}),
            signal: AbortSignal.timeout(TIMEOUT_MS),
        });
        if (!response.ok) throw new Error(`HTTP ${response.status}`);
        return (await response.json()).data[0];
    }

    /**
     * What the server says to a question: `error` in place of all else where there is no answer.
     * @typedef {{serial?: number, error?: {code: string, message: string}, [key: string]: any}} Answer
     * @typedef {{data: object, resolve: (answer: Answer | null) => void}} Question
     */

    /** One part of a page, asking one endpoint. Questions of different names run side by side. */
    class Bridge {
        /**
         * @param {string} endpoint
         * @param {(endpoint: string, text: string) => Promise<string>} send
         */
        constructor(endpoint, send = post) {
            this.endpoint = endpoint;
            this.send = send;
            this.serial = 0;
            /** @type {Map<string, Question | null>} the question that waits behind the running one of its name */
            this.running = new Map();
        }

        /**
         * Asks the server. While a question of this name runs, only the last one that came waits for its end; those
         * between resolve to null.
         * @param {string} name
         * @param {object} data
         * @returns {Promise<Answer | null>}
         */
        ask(name, data = {}) {
            return new Promise((resolve) => {
                const question = {data, resolve};
                if (!this.running.has(name)) {
                    this.run(name, question);
                    return;
                }
                this.running.get(name)?.resolve(null);
                this.running.set(name, question);
            });
        }

        /**
         * @param {string} name
         * @param {Question} question
         */
        async run(name, question) {
            this.running.set(name, null);
            question.resolve(await this.answer(name, question.data));
            const next = this.running.get(name);
            if (next) this.run(name, next);
            else this.running.delete(name);
        }

        /**
         * The answer that has the question's serial number, or an error.
         * @param {string} name
         * @param {object} data
         * @returns {Promise<Answer>}
         */
        async answer(name, data) {
            const serial = ++this.serial;
            try {
                const answer = JSON.parse(await this.send(this.endpoint, JSON.stringify({...data, serial, question: name})));
                if (answer.serial === serial) return answer;
            } catch (error) {
                console.error(`LoRACLR: no answer to "${name}":`, error);
            }
            return {serial, error: {code: "no-answer", message: "The server did not answer."}};
        }
    }

    return {Bridge, app, input, write};
})();
