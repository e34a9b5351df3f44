/* The regional prompter's panel: small helpers for its elements, icons and popups, and form fields.
 * A WebUI loads scripts by name, so this file comes before all others of the panel. */
"use strict";

/**
 * What the server says of a field: its place in the layout ("hires.strength"), kind of value, words and range; `soft` is
 * the slider's end where that is not `high`.
 * @typedef {"number" | "whole" | "flag" | "text" | "long" | "span"} Kind
 * @typedef {{
 *   key: string, kind: Kind, label: string, help: string, low?: any, high?: any, step?: number, soft?: number,
 *   choices?: [string, string][], optional?: boolean, empty?: string, shown?: number
 * }} Rule
 * @typedef {{node: HTMLElement, refresh: (value: any) => void, rule: {key: string}}} Field
 */

var loraclrRegional = loraclrRegional || {};

loraclrRegional.dom = (() => {
    // 20 x 20, stroked
    const ICONS = {
        select: "M5 3l10 7.2-4.6.7L13 16l-2 .9-2.5-5.1L5 15z",
        box: "M4 5.5h12v9H4z M2.8 4.3h2.4v2.4H2.8z M14.8 13.3h2.4v2.4h-2.4z",
        polygon: "M10 3l6.5 5-2.3 8.2H5.8L3.5 8z",
        lasso: "M10 4c4 0 7 1.8 7 4.4s-3 4.4-7 4.4-7-1.8-7-4.4S6 4 10 4z M6 12.2c-1.5.9-1.6 2.4-.3 3 1.2.5 1.9 1 1.6 2.3",
        brush: "M16.5 3.5L9 11l1.8 1.8 6.7-7.7z M8.2 11.6c-1.8 0-2.7 1.2-2.9 2.5-.1 1.1-.8 1.7-2 1.9 1.6 1.5 6.6 1.1 6.7-2.4z",
        eraser: "M8 16l-4.4-4.4a1 1 0 010-1.4l6.3-6.3a1 1 0 011.4 0l4.9 4.9a1 1 0 010 1.4L10.4 16z M6.3 7.6l5.9 5.9 M8 16h9",
        undo: "M7 4L3.5 7.5 7 11 M3.5 7.5H12a4.3 4.3 0 010 8.6H8",
        redo: "M13 4l3.5 3.5L13 11 M16.5 7.5H8a4.3 4.3 0 000 8.6h4",
        grid: "M3.5 4h13v12h-13z M9 4v12 M9 10h7.5",
        presets: "M6 3.5h8v13l-4-3.2-4 3.2z",
        picture: "M3.5 4.5h13v11h-13z M5 14l3.5-4 2.5 2.6 2-2.1 3 3.5 M12.8 7.2a.6.6 0 101.2 0 .6.6 0 00-1.2 0",
        eye: "M2.5 10S5.3 5 10 5s7.5 5 7.5 5-2.8 5-7.5 5-7.5-5-7.5-5z M12.2 10a2.2 2.2 0 11-4.4 0 2.2 2.2 0 014.4 0z",
        off: "M2.5 10S5.3 5 10 5s7.5 5 7.5 5-2.8 5-7.5 5-7.5-5-7.5-5z M4 16L16 4",
        snap: "M5 3v7a5 5 0 0010 0V3h-3v7a2 2 0 01-4 0V3z M5 6h3 M12 6h3",
        fit: "M4 8V4h4 M12 4h4v4 M16 12v4h-4 M8 16H4v-4",
        copy: "M7 7h9v9H7z M4 13V4h9",
        trash: "M4 6h12 M8 6V4h4v2 M5.5 6l.8 10h7.4l.8-10 M8.5 9v4.5 M11.5 9v4.5",
        up: "M10 15V5 M5.5 9.5L10 5l4.5 4.5",
        down: "M10 5v10 M5.5 10.5L10 15l4.5-4.5",
        more: "M5.5 8l4.5 4.5L14.5 8",
        map: "M4 4h12v12H4z M4 8h12 M4 12h12 M8 4v12 M12 4v12",
        plus: "M10 4.5v11 M4.5 10h11",
        close: "M5.5 5.5l9 9 M14.5 5.5l-9 9",
        help: "M7.5 7.6a2.5 2.5 0 114 2c-1 .7-1.5 1.2-1.5 2.4 M10 14.6v.3 M17 10a7 7 0 11-14 0 7 7 0 0114 0z",
    };

    /** @typedef {keyof typeof ICONS} IconName */

    /**
     * Element with attributes, `on…` listeners and children; null children are left out.
     * @template {keyof HTMLElementTagNameMap} Tag
     * @param {Tag} tag
     * @param {Json} attributes
     * @param {(Node | string | null | undefined)[]} children
     */
    function el(tag, attributes = {}, ...children) {
        const node = document.createElement(tag);
        for (const [name, value] of Object.entries(attributes)) {
            if (value === null || value === undefined || value === false) continue;
            if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
            else if (name in node && typeof value !== "string") Object.assign(node, {[name]: value});
            else node.setAttribute(name, value === true ? "" : value);
        }
        for (const child of children) if (child !== null && child !== undefined) node.append(child);
        return node;
    }

    /** @param {IconName} name */
    function icon(name) {
        const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        svg.setAttribute("viewBox", "0 0 20 20");
        svg.setAttribute("aria-hidden", "true");
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("d", ICONS[name]);
        svg.append(path);
        return svg;
    }

    /**
     * Square button with an icon; its label is its tooltip and its name for screen readers.
     * @param {IconName} name
     * @param {string} label
     * @param {(() => void) | null} onclick
     */
    function iconButton(name, label, onclick, attributes = {}) {
        return el("button", {"type": "button", "class": "loraclr-icon", "title": label, "aria-label": label.split(" (")[0], onclick, ...attributes}, icon(name));
    }

    /**
     * As iconButton, with a word beside the icon.
     * @param {IconName} name
     * @param {string} word
     * @param {string} label
     * @param {(() => void) | null} onclick
     */
    function wordButton(name, word, label, onclick) {
        const button = iconButton(name, label, onclick);
        button.classList.add("loraclr-worded");
        button.append(el("span", {}, word));
        return button;
    }

    /**
     * @param {string} text
     * @param {(() => void) | null} onclick
     */
    function textButton(text, onclick, attributes = {}) {
        return el("button", {type: "button", class: "loraclr-button", onclick, ...attributes}, text);
    }

    /**
     * Button that shows a small panel below it; `fill(content, close)` is called each time it opens.
     * @param {HTMLButtonElement} button
     * @param {string} label
     * @param {(content: HTMLElement, close: () => void) => void} fill
     */
    function popup(button, label, fill) {
        const content = el("div", {"class": "loraclr-popup", "role": "dialog", "aria-label": label, "hidden": true});
        const holder = el("div", {class: "loraclr-popup-holder"}, button, content);
        button.setAttribute("aria-haspopup", "dialog");
        button.setAttribute("aria-expanded", "false");
        /** @param {Event} event */
        const outside = (event) => {
            if (!(event.target instanceof Node && holder.contains(event.target))) close(false);
        };
        function close(refocus = true) {
            if (content.hidden) return;
            content.hidden = true;
            button.setAttribute("aria-expanded", "false");
            document.removeEventListener("pointerdown", outside, true);
            if (refocus) button.focus();
        }
        function place() {
            content.style.left = "0px";
            const frame = /** @type {Element} */ (holder.closest(".loraclr-regional")).getBoundingClientRect();
            const over = content.getBoundingClientRect().right - frame.right + 4;
            if (over > 0) content.style.left = `${-Math.min(over, holder.getBoundingClientRect().left - frame.left)}px`;
        }
        button.addEventListener("click", () => {
            if (!content.hidden) {
                close();
                return;
            }
            content.replaceChildren();
            fill(content, close);
            content.hidden = false;
            place();
            button.setAttribute("aria-expanded", "true");
            document.addEventListener("pointerdown", outside, true);
            const first = content.querySelector("button, input, textarea, select");
            if (first instanceof HTMLElement) first.focus();
        });
        holder.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
            if (event.key !== "Escape" || content.hidden) return;
            event.preventDefault();
            event.stopPropagation();
            close();
        });
        return holder;
    }

    /**
     * Calls `fn` once things have been quiet for `ms`.
     * @param {(...args: any[]) => void} fn
     * @param {number} ms
     */
    function debounce(fn, ms) {
        let timer = 0;
        return (/** @type {any[]} */ ...args) => {
            clearTimeout(timer);
            timer = setTimeout(() => fn(...args), ms);
        };
    }

    return {el, icon, iconButton, wordButton, textButton, popup, debounce};
})();

/* Form fields made from the server's description of the layout: one kind of control for each kind of value. */
loraclrRegional.fields = (() => {
    const {el} = loraclrRegional.dom;
    let serial = 0;

    /**
     * Number in range from a text, or null.
     * @param {string} text
     * @param {Rule} rule
     */
    function readNumber(text, rule) {
        const value = text.trim() === "" ? NaN : Number(text.replace(",", "."));
        if (!Number.isFinite(value)) return null;
        const inside = loraclrRegional.geometry.clamp(value, rule.low, rule.high);
        return rule.kind === "whole" ? Math.round(inside) : inside;
    }

    /** @param {any} value */
    const shown = (value) => (value === null ? "" : String(Math.round(value * 1e4) / 1e4));

    /** @param {KeyboardEvent} event */
    function stopKeys(event) {
        // the program's own shortcuts must not see what is typed here, but Ctrl+Enter (generate) and Ctrl+arrows (attention) may
        if (!event.ctrlKey && !event.metaKey && event.key !== "Escape") event.stopPropagation();
    }

    /**
     * @param {Rule} rule
     * @param {string} id
     * @param {(value: any) => void} set
     */
    function numberControl(rule, id, set) {
        const top = rule.soft || rule.high;
        const step = rule.step || (rule.kind === "whole" ? 1 : 0.01);
        const slider = el("input", {"type": "range", "min": String(rule.low), "max": String(top), "step": String(step), "aria-label": rule.label, "tabindex": "-1"});
        const box = el("input", {type: "text", inputmode: "decimal", id, placeholder: rule.empty || "", autocomplete: "off", onkeydown: stopKeys});
        slider.addEventListener("input", () => set(Number(slider.value)));
        const take = () => {
            const value = readNumber(box.value, rule);
            if (value !== null || rule.optional) set(value);
            refresh(current);
        };
        /** @type {number | null} */
        let current = null;
        box.addEventListener("change", take);
        box.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
            const up = {ArrowUp: 1, ArrowDown: -1}[event.key];
            if (!up || event.ctrlKey) return;
            event.preventDefault();
            set(loraclrRegional.geometry.clamp(loraclrRegional.geometry.round((current || 0) + up * step * (event.shiftKey ? 10 : 1)), rule.low, rule.high));
        });
        /** @param {any} value */
        function refresh(value) {
            current = value;
            slider.value = String(value === null ? rule.shown || 0 : value);
            slider.classList.toggle("loraclr-unset", value === null);
            const part = (Number(slider.value) - rule.low) / Math.max(1e-9, top - rule.low);
            slider.style.setProperty("--loraclr-part", `${100 * loraclrRegional.geometry.clamp(part, 0, 1)}%`);
            if (document.activeElement !== box || readNumber(box.value, rule) !== value) box.value = shown(value);
        }
        return {nodes: [slider, box], refresh};
    }

    /**
     * @param {Rule} rule
     * @param {string} id
     * @param {(value: any) => void} set
     */
    function spanControl(rule, id, set) {
        let current = [rule.low, rule.high];
        const boxes = [0, 1].map((i) => {
            const label = rule.label + (i ? ", last" : ", first");
            const box = el("input", {"type": "text", "inputmode": "decimal", "aria-label": label, "onkeydown": stopKeys, ...(i ? {} : {id})});
            box.addEventListener("change", () => {
                const value = readNumber(box.value, rule);
                const next = current.slice();
                if (value !== null) next[i] = value;
                set(next[0] <= next[1] ? next : [next[1], next[0]]);
                refresh(current);
            });
            return box;
        });
        /** @param {any} value */
        function refresh(value) {
            current = value;
            boxes.forEach((box, i) => {
                box.value = shown(value[i]);
            });
        }
        return {nodes: [boxes[0], el("span", {class: "loraclr-dash"}, "–"), boxes[1]], refresh};
    }

    /**
     * @param {Rule} rule
     * @param {string} id
     * @param {(value: any) => void} set
     */
    function textControl(rule, id, set) {
        const long = rule.kind === "long";
        const box = el(long ? "textarea" : "input", {id, type: long ? null : "text", placeholder: rule.empty || "", rows: long ? "2" : null, spellcheck: "false", autocomplete: "off"});
        box.onkeydown = stopKeys;
        box.oninput = () => set(box.value);
        return {
            nodes: [box],
            /** @param {any} value */
            refresh(value) {
                if (box.value !== value) box.value = value;
            },
        };
    }

    /**
     * @param {Rule} rule
     * @param {string} id
     * @param {(value: any) => void} set
     */
    function choiceControl(rule, id, set) {
        const box = el("select", {id}, ...(rule.choices ?? []).map(([value, label]) => el("option", {value}, label)));
        box.addEventListener("change", () => set(box.value));
        return {
            nodes: [box],
            /** @param {any} value */
            refresh(value) {
                box.value = value;
            },
        };
    }

    /**
     * @param {Rule} rule
     * @param {string} id
     * @param {(value: any) => void} set
     */
    function flagControl(rule, id, set) {
        const box = el("input", {type: "checkbox", id});
        box.addEventListener("change", () => set(box.checked));
        return {
            nodes: [box],
            /** @param {any} value */
            refresh(value) {
                box.checked = value;
            },
        };
    }

    const CONTROLS = {number: numberControl, whole: numberControl, flag: flagControl, span: spanControl, text: textControl, long: textControl};

    /**
     * {node, refresh(value)} for a rule; `set(value)` is called with every valid change.
     * @param {Rule} rule
     * @param {(value: any) => void} set
     */
    function field(rule, set) {
        const id = `loraclr-field-${++serial}`;
        const make = rule.choices ? choiceControl : CONTROLS[rule.kind];
        const {nodes, refresh} = make(rule, id, set);
        const label = el("label", {for: id, title: rule.help}, rule.label);
        const kind = rule.choices ? "choice" : rule.kind;
        const inner = kind === "flag" ? [...nodes, label] : [label, el("div", {class: "loraclr-control"}, ...nodes)];
        return {node: el("div", {class: `loraclr-field loraclr-field-${kind}`}, ...inner), refresh, rule};
    }

    return {field, readNumber, stopKeys};
})();
