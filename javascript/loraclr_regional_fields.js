/* Form fields made from the server's description of the spec: one kind of control for each kind of value.
 * A rule is {key, kind, label, help, low, high, step, choices, optional, empty}; kinds are number, whole, flag, text, long, span. */
"use strict";

var loraclrRegional = window.loraclrRegional || {};

(() => {
    const R = loraclrRegional;
    const el = (...given) => R.dom.el(...given);
    let serial = 0;

    /** Number in range from a text, or null. */
    function readNumber(text, rule) {
        const value = text.trim() === "" ? NaN : Number(text.replace(",", "."));
        if (!Number.isFinite(value)) return null;
        const inside = R.geometry.clamp(value, rule.low, rule.high);
        return rule.kind === "whole" ? Math.round(inside) : inside;
    }

    const shown = (value) => (value === null ? "" : String(Math.round(value * 1e4) / 1e4));

    function stopKeys(event) {
        // the program's own shortcuts must not see what is typed here, but Ctrl+Enter (generate) and Ctrl+arrows (attention) may
        if (!event.ctrlKey && !event.metaKey && event.key !== "Escape") event.stopPropagation();
    }

    function numberControl(rule, id, set) {
        const top = rule.soft || rule.high;
        const step = rule.step || (rule.kind === "whole" ? 1 : 0.01);
        const slider = el("input", {type: "range", min: String(rule.low), max: String(top), step: String(step), "aria-label": rule.label, tabindex: "-1"});
        const box = el("input", {type: "text", inputmode: "decimal", id, placeholder: rule.empty || "", autocomplete: "off", onkeydown: stopKeys});
        slider.addEventListener("input", () => set(Number(slider.value)));
        const take = () => {
            const value = readNumber(box.value, rule);
            if (value !== null || rule.optional) set(value);
            refresh(current);
        };
        let current = null;
        box.addEventListener("change", take);
        box.addEventListener("keydown", (event) => {
            const up = {ArrowUp: 1, ArrowDown: -1}[event.key];
            if (!up || event.ctrlKey) return;
            event.preventDefault();
            set(R.geometry.clamp(R.geometry.round((current || 0) + up * step * (event.shiftKey ? 10 : 1)), rule.low, rule.high));
        });
        function refresh(value) {
            current = value;
            slider.value = String(value === null ? rule.shown || 0 : value);
            slider.classList.toggle("loraclr-unset", value === null);
            const part = (Number(slider.value) - rule.low) / Math.max(1e-9, top - rule.low);
            slider.style.setProperty("--loraclr-part", `${100 * R.geometry.clamp(part, 0, 1)}%`);
            if (document.activeElement !== box || readNumber(box.value, rule) !== value) box.value = shown(value);
        }
        return {nodes: [slider, box], refresh};
    }

    function spanControl(rule, id, set) {
        let current = [rule.low, rule.high];
        const boxes = [0, 1].map((i) => {
            const label = rule.label + (i ? ", last" : ", first");
            const box = el("input", {type: "text", inputmode: "decimal", "aria-label": label, onkeydown: stopKeys, ...(i ? {} : {id})});
            box.addEventListener("change", () => {
                const value = readNumber(box.value, rule);
                const next = current.slice();
                if (value !== null) next[i] = value;
                set(next[0] <= next[1] ? next : [next[1], next[0]]);
                refresh(current);
            });
            return box;
        });
        function refresh(value) {
            current = value;
            boxes.forEach((box, i) => {
                box.value = shown(value[i]);
            });
        }
        return {nodes: [boxes[0], el("span", {class: "loraclr-dash"}, "–"), boxes[1]], refresh};
    }

    function textControl(rule, id, set) {
        const long = rule.kind === "long";
        const box = el(long ? "textarea" : "input", {id, type: long ? null : "text", placeholder: rule.empty || "", rows: long ? "2" : null, spellcheck: "false", autocomplete: "off"});
        box.addEventListener("keydown", stopKeys);
        box.addEventListener("input", () => set(box.value));
        return {
            nodes: [box],
            refresh(value) {
                if (box.value !== value) box.value = value;
            },
        };
    }

    function choiceControl(rule, id, set) {
        const box = el("select", {id}, ...rule.choices.map(([value, label]) => el("option", {value}, label)));
        box.addEventListener("change", () => set(box.value));
        return {
            nodes: [box],
            refresh(value) {
                box.value = value;
            },
        };
    }

    function flagControl(rule, id, set) {
        const box = el("input", {type: "checkbox", id});
        box.addEventListener("change", () => set(box.checked));
        return {
            nodes: [box],
            refresh(value) {
                box.checked = value;
            },
        };
    }

    /** {node, refresh(value)} for a rule; `set(value)` is called with every valid change. */
    function field(rule, set) {
        const id = `loraclr-field-${++serial}`;
        const make = rule.choices ? choiceControl : {flag: flagControl, span: spanControl, text: textControl, long: textControl}[rule.kind] || numberControl;
        const {nodes, refresh} = make(rule, id, set);
        const label = el("label", {for: id, title: rule.help}, rule.label);
        const kind = rule.choices ? "choice" : rule.kind;
        const inner = kind === "flag" ? [...nodes, label] : [label, el("div", {class: "loraclr-control"}, ...nodes)];
        return {node: el("div", {class: `loraclr-field loraclr-field-${kind}`}, ...inner), refresh, rule};
    }

    R.fields = {field, readNumber, stopKeys};
})();
