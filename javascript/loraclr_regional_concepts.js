/* Concepts of merged LoRA files: one into a region, or all of a file side by side (the merge tab's "send to"). */
"use strict";

/**
 * @typedef {{name: string, trigger: string, phrase: string, file: string, weight: number}} Concept
 * @typedef {{name: string, trigger: string, phrase?: string}} MergedConcept
 */

var loraclrRegional = loraclrRegional || {};

loraclrRegional.concepts = (() => {
    const R = loraclrRegional;
    const COLUMNS = 4;

    /**
     * Puts a concept's words into a region and its file's tag into the main prompt, each once.
     * @param {Panel} panel
     * @param {string} id
     * @param {Concept | null} concept
     */
    function use(panel, id, concept) {
        const doc = panel.document;
        const region = doc.region(id);
        if (!region) return;
        if (!concept) {
            doc.update(id, {concept: ""});
            return;
        }
        const words = concept.phrase || concept.trigger;
        const has = region.prompt.toLowerCase().includes((concept.trigger || words).toLowerCase());
        const prompt = has ? region.prompt : [words, region.prompt.trim()].filter(Boolean).join(", ");
        doc.update(id, {concept: concept.name, prompt, name: region.name || concept.name});
        addTag(panel, concept);
    }

    /**
     * The file's tag at the end of the main prompt, unless the prompt has one of that file.
     * @param {Panel} panel
     * @param {Concept} concept
     */
    function addTag(panel, {file, weight}) {
        const main = loraclrBridge.input(`${panel.tab}_prompt`);
        if (!main || !file || main.value.includes(`<lora:${file}:`)) return;
        loraclrBridge.write(main, `${main.value.trim()} <lora:${file}:${weight}>`.trim());
    }

    /**
     * Equal boxes for so many subjects: side by side, in rows once there are more than four.
     * @param {number} count
     */
    function boxesFor(count) {
        const rows = Math.ceil(count / COLUMNS);
        /** @param {number} row */
        const widths = (row) => new Array(Math.floor(count / rows) + (row < count % rows ? 1 : 0)).fill(1);
        return R.geometry.gridBoxes(Array.from({length: rows}, (_, row) => ({height: 1, widths: widths(row)})));
    }

    /**
     * A layout with one region for every concept of a merged file, each a picture of its own in the first steps unless
     * the layout says for how long. Undo brings the former one back. False: no panel.
     * @param {{lora: string, concepts: MergedConcept[]}} merged
     */
    function receive({lora, concepts}, tab = "txt2img") {
        const panel = R.panels.get(tab);
        if (!panel || !concepts.length) return false;
        const listed = concepts.slice(0, panel.config.maxRegions).map(({name, trigger, phrase = trigger}) => (
            {name, trigger, phrase, file: lora, weight: 1}
        ));
        panel.sent = [...panel.sent.filter((/** @type {any} */ one) => one.file !== lora), ...listed];
        panel.setConcepts([...panel.config.concepts.filter((/** @type {any} */ one) => one.file !== lora), ...listed]);
        const boxes = boxesFor(listed.length);
        const regions = listed.map(({name, phrase}, /** @type {number} */ i) => ({id: `r${i + 1}`, name, concept: name, prompt: phrase, shape: {t: "box", r: boxes[i]}}));
        const layout = JSON.parse(panel.document.text());
        const isolation = {...layout.isolation, separate_until: layout.isolation?.separate_until || panel.config.subjectsSeparateUntil};
        panel.load(JSON.stringify({...layout, isolation, regions}), {source: "layout"});
        addTag(panel, listed[0]);
        panel.canvas.setTool("select");
        if (typeof inputAccordionChecked === "function") inputAccordionChecked(panel.config.ids.enabled, true);
        const share = Math.round(100 * isolation.separate_until);
        panel.say(`One region for every concept of ${lora}; in the first ${share} % of the steps each is a picture of its own.`);
        return true;
    }

    return {use, boxesFor, receive};
})();

/** The merge tab calls this to send a merged file's concepts. */
loraclrRegional.receive = loraclrRegional.concepts.receive;
