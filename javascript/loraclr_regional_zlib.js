/* zlib streams (RFC 1950, RFC 1951) in both directions, synchronous, for masks of a few kilobytes. No DOM.
 * The browser's CompressionStream is asynchronous, and a mask must be in the hidden text before the next click. */
"use strict";

var loraclrRegional = window.loraclrRegional || {};

(() => {
    const R = loraclrRegional;
    const LENGTH_BASE = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
    const LENGTH_EXTRA = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
    const DISTANCE_BASE = [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577];
    const DISTANCE_EXTRA = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];
    const CODE_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    const MAX_MATCH = 258;
    const MAX_DISTANCE = 32768;
    const MAX_CHAIN = 64;

    function adler32(bytes) {
        let a = 1;
        let b = 0;
        for (const byte of bytes) {
            a = (a + byte) % 65521;
            b = (b + a) % 65521;
        }
        return ((b << 16) | a) >>> 0;
    }

    function reverseBits(value, count) {
        let result = 0;
        for (let i = 0; i < count; i++) result = (result << 1) | ((value >> i) & 1);
        return result;
    }

    /** Code of a literal or length symbol in the fixed Huffman table. */
    function fixedCode(symbol) {
        if (symbol < 144) return [0x30 + symbol, 8];
        if (symbol < 256) return [0x190 + symbol - 144, 9];
        if (symbol < 280) return [symbol - 256, 7];
        return [0xc0 + symbol - 280, 8];
    }

    const slot = (bases, value) => {
        let i = bases.length - 1;
        while (bases[i] > value) i--;
        return i;
    };

    /** Bytes to a zlib stream: one block, fixed Huffman codes, matches from a hash chain. */
    function deflate(bytes) {
        const out = [0x78, 0x9c];
        let hold = 0;
        let held = 0;
        const put = (value, count) => {
            hold |= value << held;
            held += count;
            while (held >= 8) {
                out.push(hold & 255);
                hold >>>= 8;
                held -= 8;
            }
        };
        const symbol = (value) => {
            const [code, count] = fixedCode(value);
            put(reverseBits(code, count), count);
        };
        const heads = new Map();
        const previous = new Int32Array(bytes.length).fill(-1);
        const enter = (i) => {
            if (i + 2 >= bytes.length) return;
            const key = (bytes[i] << 16) | (bytes[i + 1] << 8) | bytes[i + 2];
            if (heads.has(key)) previous[i] = heads.get(key);
            heads.set(key, i);
        };
        const longest = (i) => {
            let best = 0;
            let distance = 0;
            if (i + 2 >= bytes.length) return [best, distance];
            const key = (bytes[i] << 16) | (bytes[i + 1] << 8) | bytes[i + 2];
            const limit = Math.min(MAX_MATCH, bytes.length - i);
            let at = heads.has(key) ? heads.get(key) : -1;
            for (let tries = 0; at >= 0 && i - at <= MAX_DISTANCE && tries < MAX_CHAIN; tries++, at = previous[at]) {
                let length = 0;
                while (length < limit && bytes[at + length] === bytes[i + length]) length++;
                if (length > best) [best, distance] = [length, i - at];
                if (best === limit) break;
            }
            return [best, distance];
        };
        put(1, 1);
        put(1, 2);
        for (let i = 0; i < bytes.length;) {
            const [length, distance] = longest(i);
            if (length < 3) {
                symbol(bytes[i]);
                enter(i++);
                continue;
            }
            const l = slot(LENGTH_BASE, length);
            symbol(257 + l);
            put(length - LENGTH_BASE[l], LENGTH_EXTRA[l]);
            const d = slot(DISTANCE_BASE, distance);
            put(reverseBits(d, 5), 5);
            put(distance - DISTANCE_BASE[d], DISTANCE_EXTRA[d]);
            for (const end = i + length; i < end; i++) enter(i);
        }
        symbol(256);
        if (held) put(0, 8 - held);
        const sum = adler32(bytes);
        out.push(sum >>> 24, (sum >>> 16) & 255, (sum >>> 8) & 255, sum & 255);
        return Uint8Array.from(out);
    }

    /** Canonical Huffman decoding table: symbols in order of code, and how many codes each length has. */
    function huffman(lengths) {
        const counts = new Uint16Array(16);
        for (const length of lengths) counts[length]++;
        counts[0] = 0;
        const offsets = new Uint16Array(16);
        for (let i = 1; i < 16; i++) offsets[i] = offsets[i - 1] + counts[i - 1];
        const symbols = new Uint16Array(lengths.length);
        lengths.forEach((length, value) => {
            if (length) symbols[offsets[length]++] = value;
        });
        return {counts, symbols};
    }

    const FIXED_LENGTHS = Array.from({length: 288}, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8));

    /** A zlib stream to bytes; throws on a damaged stream and beyond `limit` bytes. */
    function inflate(data, limit) {
        let at = 2;
        let hold = 0;
        let held = 0;
        const out = [];
        const fail = (why) => {
            throw new Error("mask data: " + why);
        };
        const bits = (count) => {
            while (held < count) {
                if (at >= data.length) fail("too short");
                hold |= data[at++] << held;
                held += 8;
            }
            const value = hold & ((1 << count) - 1);
            hold >>>= count;
            held -= count;
            return value;
        };
        const decode = ({counts, symbols}) => {
            let code = 0;
            let first = 0;
            let index = 0;
            for (let length = 1; length < 16; length++) {
                code |= bits(1);
                if (code - counts[length] < first) return symbols[index + code - first];
                index += counts[length];
                first = (first + counts[length]) << 1;
                code <<= 1;
            }
            return fail("a code that does not exist");
        };
        const push = (byte) => {
            if (out.length >= limit) fail("too long");
            out.push(byte);
        };
        const tables = () => {
            const literals = bits(5) + 257;
            const distances = bits(5) + 1;
            const used = bits(4) + 4;
            const order = new Array(19).fill(0);
            for (let i = 0; i < used; i++) order[CODE_ORDER[i]] = bits(3);
            const codes = huffman(order);
            const lengths = [];
            while (lengths.length < literals + distances) {
                const value = decode(codes);
                if (value < 16) lengths.push(value);
                else {
                    const repeat = value === 16 ? 3 + bits(2) : value === 17 ? 3 + bits(3) : 11 + bits(7);
                    const what = value === 16 ? lengths[lengths.length - 1] : 0;
                    for (let i = 0; i < repeat; i++) lengths.push(what);
                }
            }
            return [huffman(lengths.slice(0, literals)), huffman(lengths.slice(literals))];
        };
        const compressed = (literals, distances) => {
            for (;;) {
                const value = decode(literals);
                if (value === 256) return;
                if (value < 256) push(value);
                else {
                    const l = value - 257;
                    if (l > 28) fail("a length that does not exist");
                    const length = LENGTH_BASE[l] + bits(LENGTH_EXTRA[l]);
                    const d = decode(distances);
                    const distance = DISTANCE_BASE[d] + bits(DISTANCE_EXTRA[d]);
                    if (!(distance <= out.length)) fail("a reference before the start");
                    for (let i = 0; i < length; i++) push(out[out.length - distance]);
                }
            }
        };
        if (data.length < 6 || (data[0] & 15) !== 8 || ((data[0] << 8) | data[1]) % 31) fail("no zlib stream");
        for (let last = 0; !last;) {
            last = bits(1);
            const kind = bits(2);
            if (kind === 0) {
                hold = held = 0;
                const length = data[at] | (data[at + 1] << 8);
                at += 4;
                if (at + length > data.length) fail("too short");
                for (let i = 0; i < length; i++) push(data[at++]);
            } else if (kind === 1) compressed(huffman(FIXED_LENGTHS), huffman(new Array(30).fill(5)));
            else if (kind === 2) compressed(...tables());
            else fail("an unknown block");
        }
        return Uint8Array.from(out);
    }

    function toBase64(bytes) {
        let text = "";
        for (const byte of bytes) text += String.fromCharCode(byte);
        return btoa(text);
    }

    function fromBase64(text) {
        return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    }

    R.zlib = {deflate, inflate, adler32, toBase64, fromBase64};
})();
