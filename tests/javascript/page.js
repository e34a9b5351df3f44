/* The scripts as a page loads them: one after the other by name, in one global scope, with stand-ins for the page. */
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const FOLDER = path.join(__dirname, "..", "..", "javascript");

/** A picture element whose source is what `Canvas.toDataURL` wrote. */
class Picture {
    set src(url) {
        const [w, h, bytes] = JSON.parse(Buffer.from(url.split(",")[1], "base64").toString());
        Object.assign(this, {naturalWidth: w, naturalHeight: h, pixels: Uint8ClampedArray.from(bytes)});
        queueMicrotask(() => this.onload());
    }
}

/** As much of a canvas as holds pixels; it draws nothing. */
class Canvas {
    getContext() {
        const canvas = this;
        const size = () => 4 * canvas.width * canvas.height;
        let pixels = null;
        return {
            canvas,
            createImageData: () => ({data: new Uint8ClampedArray(size())}),
            putImageData: ({data}) => {
                canvas.pixels = pixels = data;
            },
            getImageData: () => ({data: pixels ?? new Uint8ClampedArray(size())}),
            drawImage: (image) => {
                pixels = image.pixels;
            },
        };
    }

    toDataURL() {
        const text = JSON.stringify([this.width, this.height, [...this.pixels]]);
        return `data:image/png;base64,${Buffer.from(text).toString("base64")}`;
    }
}

/** The page's globals after the files whose names match were loaded. */
function load(pattern) {
    const page = vm.createContext({
        console,
        Image: Picture,
        document: {createElement: () => new Canvas()},
        onUiLoaded: () => {},
        onAfterUiUpdate: () => {},
    });
    page.window = page;
    for (const name of fs.readdirSync(FOLDER).sort()) {
        if (name.endsWith(".js") && pattern.test(name)) vm.runInContext(fs.readFileSync(path.join(FOLDER, name), "utf8"), page, name);
    }
    return page;
}

/** A value of the page as one of ours: arrays and objects of another global scope are never deeply equal to ours. */
const plain = (value) => JSON.parse(JSON.stringify(value));

module.exports = {load, plain};
