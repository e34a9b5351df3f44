/* Small helpers for the panel: elements, icons, popups. */
"use strict";

var loraclrRegional = window.loraclrRegional || {};

(() => {
    const R = loraclrRegional;
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

    /** Element with attributes, `on…` listeners and children; null children are left out. */
    function el(tag, attributes = {}, ...children) {
        const node = document.createElement(tag);
        for (const [name, value] of Object.entries(attributes)) {
            if (value === null || value === undefined || value === false) continue;
            if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
            else if (name in node && typeof value !== "string") node[name] = value;
            else node.setAttribute(name, value === true ? "" : value);
        }
        node.append(...children.filter((child) => child !== null && child !== undefined));
        return node;
    }

    function icon(name) {
        const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        svg.setAttribute("viewBox", "0 0 20 20");
        svg.setAttribute("aria-hidden", "true");
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("d", ICONS[name]);
        svg.append(path);
        return svg;
    }

    /** Square button with an icon; its label is its tooltip and its name for screen readers. */
    function iconButton(name, label, onclick, attributes = {}) {
        return el("button", {type: "button", class: "loraclr-icon", title: label, "aria-label": label.split(" (")[0], onclick, ...attributes}, icon(name));
    }

    /** As iconButton, with a word beside the icon. */
    function wordButton(name, word, label, onclick) {
        const button = iconButton(name, label, onclick);
        button.classList.add("loraclr-worded");
        button.append(el("span", {}, word));
        return button;
    }

    function textButton(text, onclick, attributes = {}) {
        return el("button", {type: "button", class: "loraclr-button", onclick, ...attributes}, text);
    }

    /** Button that shows a small panel below it; `fill(content, close)` is called each time it opens. */
    function popup(button, label, fill) {
        const content = el("div", {class: "loraclr-popup", role: "dialog", "aria-label": label, hidden: true});
        const holder = el("div", {class: "loraclr-popup-holder"}, button, content);
        button.setAttribute("aria-haspopup", "dialog");
        button.setAttribute("aria-expanded", "false");
        const outside = (event) => {
            if (!holder.contains(event.target)) close(false);
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
            const frame = holder.closest(".loraclr-regional").getBoundingClientRect();
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
            if (first) first.focus();
        });
        holder.addEventListener("keydown", (event) => {
            if (event.key !== "Escape" || content.hidden) return;
            event.preventDefault();
            event.stopPropagation();
            close();
        });
        return holder;
    }

    /** Calls `fn` once things have been quiet for `ms`. */
    function debounce(fn, ms) {
        let timer = 0;
        return (...args) => {
            clearTimeout(timer);
            timer = setTimeout(() => fn(...args), ms);
        };
    }

    R.dom = {el, icon, iconButton, wordButton, textButton, popup, debounce};
})();
