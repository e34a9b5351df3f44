/* The panel's popups: grid generator, layouts and import, picture behind the regions, help. */
"use strict";

var loraclrRegional = loraclrRegional || {};

loraclrRegional.menus = (() => {
    const R = loraclrRegional;
    const {el, iconButton, textButton} = R.dom;
    const {stopKeys} = R.fields;
    const GRIDS = ["1,1", "1,1,1", "1,2,1", "1,1,1;1,1,1", "1,1;2,1,1"];
    const SHORTCUTS = [
        ["V B P L D E", "select, box, polygon, lasso, brush, eraser"],
        ["Arrows", "move the region; with Shift in small steps, with Alt its lower right corner"],
        ["Page Up, Page Down", "previous and next region"],
        ["[ ]", "back and forward in the stack"],
        ["Ctrl+D, Del", "duplicate, delete"],
        ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo"],
        ["Enter", "go to the prompt; end a polygon; on an empty picture add a box"],
        ["Ctrl+wheel, two fingers, + − 0", "zoom"],
        ["Space+drag, middle button", "move the view"],
        ["Alt+click", "region below; removes a polygon's point"],
        ["Double click", "on a polygon's edge: new point; on a region: its prompt"],
        [", .", "brush size; Alt swaps brush and eraser"],
        ["Shift", "square box; keep the shape while resizing; move along one axis"],
        ["Ctrl", "turns snapping off, or on, while held"],
    ];

    /**
     * Small drawing of boxes for a button.
     * @param {Box[]} boxes
     */
    function thumbnail(boxes) {
        const frame = el("span", {"class": "loraclr-thumb", "aria-hidden": "true"});
        for (const [x0, y0, x1, y1] of boxes) {
            const cell = el("i");
            cell.style.cssText = `left:${100 * x0}%;top:${100 * y0}%;width:${100 * (x1 - x0)}%;height:${100 * (y1 - y0)}%`;
            frame.append(cell);
        }
        return frame;
    }

    /**
     * @param {Panel} panel
     * @param {HTMLElement} content
     * @param {() => void} close
     */
    function gridMenu(panel, content, close) {
        /** @param {Box[]} boxes */
        const apply = (boxes) => {
            panel.document.applyGrid(boxes);
            panel.canvas.setTool("select");
            close();
        };
        const ready = GRIDS.flatMap((ratios) => (ratios.includes(";") ? [{ratios, transpose: false}] : [{ratios, transpose: false}, {ratios, transpose: true}]));
        const buttons = ready.map(({ratios, transpose}) => {
            const boxes = R.geometry.gridBoxes(R.geometry.parseGrid(ratios) ?? [], transpose);
            const label = `${transpose ? "Rows" : "Columns"} ${ratios}`;
            return el("button", {"type": "button", "class": "loraclr-thumb-button", "title": label, "aria-label": label, "onclick": () => apply(boxes)}, thumbnail(boxes));
        });
        const text = el("input", {"type": "text", "value": "1,2,1;2,4,6", "aria-label": "Ratios", "spellcheck": "false", "onkeydown": stopKeys});
        const columns = el("input", {type: "checkbox", id: `${panel.tab}-loraclr-columns`});
        const preview = el("div", {class: "loraclr-grid-preview"});
        const use = textButton("Use", () => apply(boxes() ?? []), {class: "loraclr-button loraclr-primary"});
        const boxes = () => {
            const rows = R.geometry.parseGrid(text.value);
            return rows && R.geometry.gridBoxes(rows, columns.checked);
        };
        const show = () => {
            const found = boxes();
            const many = found !== null && found.length > panel.config.maxRegions;
            preview.replaceChildren(found && !many ? thumbnail(found) : el("span", {}, many ? `At most ${panel.config.maxRegions} regions.` : "Numbers, please: 1,2,1 or 1,2,1;2,4,6"));
            use.disabled = !found || many;
        };
        text.addEventListener("input", show);
        columns.addEventListener("change", show);
        show();
        content.append(
            el("h4", {}, "Divide the picture"),
            el("div", {class: "loraclr-thumbs"}, ...buttons),
            el("p", {}, "Numbers are ratios; “;” begins the next row, whose first number is its height."),
            el("div", {class: "loraclr-row"}, text, el("label", {for: columns.id}, columns, "columns first"), use),
            preview,
        );
    }

    /**
     * @param {Panel} panel
     * @param {HTMLElement} content
     * @param {() => void} close
     */
    function layoutMenu(panel, content, close) {
        const list = el("ul", {"class": "loraclr-presets", "aria-label": "Layouts"});
        const note = el("p", {role: "status", class: "loraclr-note"});
        const show = () => {
            list.replaceChildren(...panel.config.presets.map((preset) => {
                const use = () => {
                    panel.applyLayout(preset.spec);
                    close();
                };
                const remove = () => keep("preset-delete", {name: preset.name});
                const button = el("button", {type: "button", class: "loraclr-preset", onclick: use});
                button.append(thumbnail(panel.previewBoxes(preset.spec)), el("span", {}, preset.name));
                return el("li", {}, button, preset.own ? iconButton("trash", `Delete ${preset.name}`, remove) : null);
            }));
        };
        /**
         * @param {string} question
         * @param {object} data
         */
        const keep = async(question, data) => {
            const answer = await panel.bridge.ask(question, data);
            if (!answer) return;
            note.textContent = answer.error ? answer.error.message : "";
            if (answer.presets) panel.config.presets = answer.presets;
            show();
        };
        const name = el("input", {"type": "text", "placeholder": "Name of the layout", "aria-label": "Name of the layout", "maxlength": "60", "onkeydown": stopKeys});
        const save = textButton("Save", () => keep("preset-save", {name: name.value, spec: panel.document.text()}));
        const placeholder = "Regional Prompter or Forge Couple prompt, Mix-of-Show regions, or the JSON of a layout";
        const text = el("textarea", {"rows": "3", "aria-label": "Text to import", "spellcheck": "false", "onkeydown": stopKeys, placeholder});
        const take = textButton("Import", async() => {
            const answer = await panel.bridge.ask("import", {text: text.value, width: panel.document.width, height: panel.document.height});
            if (!answer) return;
            note.textContent = answer.error ? answer.error.message : (answer.notes || []).join(" ");
            if (answer.spec) {
                panel.load(JSON.stringify(answer.spec), {source: "layout"});
                panel.takePrompt(answer.prompt, text.value);
                if (!note.textContent) close();
            }
        });
        const copy = textButton("Copy as JSON", async() => {
            text.value = panel.document.text();
            text.select();
            try {
                await navigator.clipboard.writeText(text.value);
                note.textContent = "Copied.";
            } catch (error) {
                note.textContent = "Copy it from the field.";
            }
        });
        content.append(
            el("h4", {}, "Layouts"),
            list,
            el("div", {class: "loraclr-row"}, name, save),
            el("h4", {}, "Import and export"),
            text,
            el("div", {class: "loraclr-row"}, take, copy),
            note,
        );
        show();
    }

    /**
     * URLs of pictures on the page that fit behind the regions.
     * @param {string} tab
     */
    function pictures(tab) {
        /** @param {string} selector */
        const find = (selector) => {
            const image = loraclrBridge.app().querySelector(selector);
            return image instanceof HTMLImageElement ? image.src : "";
        };
        return [
            ["Last result", find(`#${tab}_gallery .preview img, #${tab}_gallery img`)],
            ["Input picture", tab === "img2img" ? find("#img2img_image img, #img2maskimg img, #inpaint_sketch img") : ""],
            ["ControlNet picture", find(`#${tab}_controlnet img, #${tab}_script_container .cnet-input-image-group img`)],
        ].filter(([, src]) => src);
    }

    /**
     * @param {Panel} panel
     * @param {HTMLElement} content
     * @param {() => void} close
     */
    function pictureMenu(panel, content, close) {
        /** @param {string | null} src */
        const use = (src) => () => {
            panel.setBackground(src);
            close();
        };
        const buttons = pictures(panel.tab).map(([label, src]) => (
            el("button", {type: "button", class: "loraclr-preset", onclick: use(src)}, el("img", {src, alt: ""}), el("span", {}, label))
        ));
        const file = textButton("From file…", () => panel.pickFile((image) => use(image.src)()));
        const none = panel.view.background ? textButton("None", use(null)) : null;
        content.append(
            el("h4", {}, "Picture behind the regions"),
            el("div", {class: "loraclr-column"}, ...buttons, file, none),
            el("p", {}, "You can also drop or paste a picture. It is only a guide and is not saved."),
        );
    }

    /**
     * @param {Panel} panel
     * @param {HTMLElement} content
     */
    function helpMenu(panel, content) {
        content.append(el("h4", {}, "Keys and gestures"), el("dl", {class: "loraclr-keys"}, ...SHORTCUTS.flatMap(([keys, text]) => [el("dt", {}, keys), el("dd", {}, text)])));
    }

    return {gridMenu, layoutMenu, pictureMenu, helpMenu, thumbnail};
})();
