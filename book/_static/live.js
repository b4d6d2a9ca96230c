// "Your own sentence": attribution, computed in the reader's browser. attattr.attribute(text, { task }) computes, the form shows it.
// What is computed, and why each file is a script, stands in book/_ext/live_model.py.
"use strict";

globalThis.attattr = (() => {
  const base = globalThis.document?.currentScript.src.replace(/[^/]*$/, "");
  const live = globalThis.attattrLive; // what `told` of live_model.py tells
  class TextError extends Error {} // a text that is not read: the message says why

  // WordPiece as BERT's: cleaned, without accents, in lower case, cut at blanks and around punctuation and Chinese characters.
  const SPECIAL = /(\[(?:UNK|CLS|SEP|PAD|MASK)\])/;
  const CHINESE = /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;

  function wordsOf(text) {
    const clean = text.replace(/(?![\t\n\r])[\0\ufffd\p{C}]/gu, "").replace(CHINESE, " $& ").normalize("NFD").replace(/\p{Mn}/gu, "");
    const lower = [...clean].map((letter) => letter.toLowerCase()).join(""); // by letter: else a last Σ is another letter than in Python
    return lower.match(/[\p{P}$+<=>^`|~]|[^\s\p{P}$+<=>^`|~]+/gu) ?? [];
  }

  function piecesOf(word, vocabulary) {
    const letters = [...word];
    if (letters.length > 100) return ["[UNK]"];
    const pieces = [];
    for (let start = 0, end; start < letters.length; start = end) {
      const piece = () => (start ? "##" : "") + letters.slice(start, end).join("");
      for (end = letters.length; end > start && !vocabulary.has(piece()); end--);
      if (end === start) return ["[UNK]"];
      pieces.push(piece());
    }
    return pieces;
  }

  // The tokens of a text, or of a pair, with their ids and the numbers of their texts; vocabulary: a Map from token to id.
  function tokenize(parts, vocabulary) {
    const tokens = ["[CLS]"];
    const types = [0];
    parts.forEach((part, number) => {
      const pieces = part.split(SPECIAL).flatMap((text, n) => {
        return n % 2 ? [text] : wordsOf(text).flatMap((word) => piecesOf(word, vocabulary));
      });
      for (const piece of [...pieces, "[SEP]"]) {
        tokens.push(piece);
        types.push(number);
      }
    });
    return { tokens, types, ids: tokens.map((token) => vocabulary.get(token)) };
  }

  const vocabularyOf = (text) => new Map(text.trimEnd().split("\n").map((token, id) => [token, id]));

  // A file comes as a script, which gives its bytes to attattr.take. From a server it is kept by the browser (Cache API).
  const taken = new Map();

  function take(name, ...texts) {
    const bytes = new Uint8Array(texts.reduce((length, text) => length + text.length, 0));
    let to = 0;
    for (const text of texts) {
      for (let at = 0; at < text.length; at++) bytes[to++] = text.charCodeAt(at); // x-user-defined: the low eight bits are the byte
    }
    taken.set(name, bytes);
  }

  async function download(url, told) {
    const store = await globalThis.caches?.open("attattr").catch(() => undefined); // none on an insecure host, or in private windows
    const kept = await store?.match(url);
    if (kept) return kept.blob();
    for (const old of (await store?.keys()) ?? []) if (!old.url.startsWith(base + live.folder)) await store.delete(old);
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url} answers ${response.status}`);
    const parts = [];
    for (const reader = response.body.getReader(); ; told(parts.at(-1).length)) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
    }
    await store?.put(url, new Response(new Blob(parts))).catch(() => undefined); // no room: it comes again next time
    return new Blob(parts);
  }

  async function file(name, told = () => {}) {
    const url = `${base}${live.folder}/${name}.js`;
    const local = location.protocol === "file:"; // where a script may be loaded, and nothing else
    const src = local ? url : URL.createObjectURL(new Blob([await download(url, told)], { type: "text/javascript" }));
    const script = Object.assign(document.createElement("script"), { src, charset: "x-user-defined" });
    await new Promise((resolve, reject) => {
      Object.assign(script, { onload: resolve, onerror: () => reject(new Error(`${name}.js cannot be loaded`)) });
      document.head.append(script);
    });
    script.remove();
    URL.revokeObjectURL(src); // else the page holds its bytes twice
    const bytes = taken.get(name);
    taken.delete(name);
    return bytes;
  }

  const files = new Map(); // promises: what is asked for twice comes once, and again only after a failure
  function once(name, make) {
    if (!files.has(name)) files.set(name, make().catch((error) => { files.delete(name); throw error; }));
    return files.get(name);
  }

  // Runs in a worker, so that the page stays alive; it knows nothing of what is around it here.
  function inWorker() {
    let ort, session;
    onmessage = async ({ data }) => {
      try {
        if (data.model) {
          ort = await import(URL.createObjectURL(new Blob([data.ort], { type: "text/javascript" })));
          Object.assign(ort.env.wasm, { wasmBinary: data.wasm.buffer, numThreads: 1, proxy: false });
          session = await ort.InferenceSession.create(data.model, { executionProviders: ["wasm"] });
          return postMessage({});
        }
        const row = (numbers) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [1, numbers.length]);
        const list = (kind, numbers) => new ort.Tensor(kind, numbers, [numbers.length]);
        const [nodes, shares] = [data.nodes, data.shares].map((numbers) => list("float32", Float32Array.from(numbers)));
        const found = await session.run({ ids: row(data.ids), types: row(data.types), task: list("float16", data.task), nodes, shares });
        postMessage(Object.fromEntries(Object.entries(found).map(([name, tensor]) => [name, tensor.data.slice()])));
      } catch (error) {
        postMessage({ error: String(error) });
      }
    };
  }

  // One question, one answer. A worker that fell (memory) is not asked again: the next text starts another one.
  function ask(worker, question, transfer = []) {
    return new Promise((resolve, reject) => {
      const fall = (message) => {
        worker.terminate();
        files.delete("engine");
        reject(new Error(message));
      };
      worker.onmessage = ({ data }) => (data.error ? fall(data.error) : resolve(data));
      worker.onerror = (event) => fall(event.message || "the worker stopped");
      worker.postMessage(question, transfer);
    });
  }

  async function engine(told) {
    if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly");
    const [ort, wasm, model, vocabulary] = await Promise.all(["ort", "wasm", "model", "vocabulary"].map((name) => file(name, told)));
    const worker = new Worker(URL.createObjectURL(new Blob([`(${inWorker})()`], { type: "text/javascript" })));
    await ask(worker, { ort, wasm, model }, [ort.buffer, wasm.buffer, model.buffer]);
    return { worker, vocabulary: vocabularyOf(new TextDecoder().decode(vocabulary)) };
  }

  // The scores by one rule, in passes of so many nodes, and of each layer the gap between their sum and F(A) - F(0).
  async function integrate(worker, question, [nodes, shares], together) {
    let found;
    for (let at = 0; at < nodes.length; at += together) {
      const part = await ask(worker, { ...question, nodes: nodes.slice(at, at + together), shares: shares.slice(at, at + together) });
      found?.scores.forEach((score, n) => { part.scores[n] += score; });
      found = part;
    }
    const size = found.scores.length / found.difference.length;
    const sum = (layer) => found.scores.subarray(layer * size, (layer + 1) * size).reduce((total, score) => total + score, 0);
    return { ...found, nodes: nodes.length, completeness: Array.from(found.difference, (lost, layer) => Math.abs(sum(layer) - lost)) };
  }

  // The decision about a text (of MNLI: [premise, hypothesis]), and its attribution; layers, heads and tokens count from 0, as in Python.
  // One text after the other, however many are asked about at once.
  let before = Promise.resolve();
  function attribute(text, options) {
    const answer = before.then(() => answerTo(text, options));
    before = answer.catch(() => {});
    return answer;
  }

  async function answerTo(text, { task = "sst2", told } = {}) {
    if (!Object.hasOwn(live.tasks, task)) throw new Error(`task ${task}: expected one of ${Object.keys(live.tasks).join(", ")}`);
    const parts = [text].flat();
    const { labels, columns } = live.tasks[task];
    const pair = columns.length > 1;
    if (parts.length !== columns.length || !parts.every((part) => typeof part === "string")) {
      throw new Error(`${JSON.stringify(text)}: expected ${pair ? "an array of two strings" : "a string"}`);
    }
    if (!parts.every((part) => /\p{L}/u.test(part))) {
      const found = parts.every((part) => part.trim()) ? "There is no letter in this text" : "There is no text";
      throw new TextError(`${found}: write ${pair ? "two sentences, one in each field" : "a sentence"}.`);
    }
    const { worker, vocabulary } = await once("engine", () => engine(told));
    const numbers = await once(task, () => file(task, told));
    const { tokens, ids, types } = tokenize(parts, vocabulary);
    if (tokens.length > live.most) {
      throw new TextError(`This text has ${tokens.length} tokens. At most ${live.most} fit here: make it shorter.`);
    }
    const started = performance.now();
    const question = { ids, types, task: new Uint16Array(numbers.buffer) };
    let found;
    for (const rule of live.rules) {
      found = await integrate(worker, question, rule, live.rules[0][0].length);
      if (found.completeness.every((gap, layer) => gap <= 0.01 * Math.max(Math.abs(found.difference[layer]), 0.01))) break;
    }
    const { completeness, scores } = found;
    const layers = completeness.length;
    const [probability, label] = labels.map((name, n) => [found.probabilities[n], name]).sort((one, other) => other[0] - one[0])[0];
    const result = { label, probability, tokens, strongest: strongest(scores, layers, tokens.length), completeness };
    const rest = { ...found, layers, heads: scores.length / layers / tokens.length ** 2, seconds: (performance.now() - started) / 1000 };
    const hidden = Object.entries(rest).filter(([name]) => !(name in result)); // for the form: not in JSON
    return Object.defineProperties(result, Object.fromEntries(hidden.map(([name, value]) => [name, { value }])));
  }

  function strongest(scores, layers, size, count = 20) {
    const least = scores.slice().sort().at(-count);
    const found = Array.from(scores.keys()).filter((at) => scores[at] >= least);
    const order = found.sort((one, other) => scores[other] - scores[one] || one - other).slice(0, count);
    const heads = scores.length / layers / size ** 2;
    return order.map((at) => ({
      layer: Math.floor(at / (heads * size * size)), head: Math.floor(at / (size * size)) % heads,
      query: Math.floor(at / size) % size, key: at % size, score: scores[at],
    }));
  }

  // Algorithm 1 of Hao et al., as attattr.attribution_graph: of each layer the connections above tau of its largest, from the top down,
  // no two tokens joined twice; each node is joined to its own token below; a [SEP] on which nothing hangs is left out.
  function graph({ scores, tokens, layers, heads }, tau) {
    const size = tokens.length;
    const edges = new Map();
    const nodes = new Set([`${layers},0`]);
    const add = (edge) => {
      edges.set(`${edge.layer},${edge.query},${edge.key}`, edge);
      nodes.add(`${edge.layer + 1},${edge.query}`).add(`${edge.layer},${edge.key}`);
    };
    const joined = new Set();
    for (let layer = layers - 1; layer >= 0; layer--) {
      const ofHeads = Array.from({ length: heads }, (_, head) => {
        const at = (layer * heads + head) * size ** 2;
        return scores.slice(at, at + size ** 2);
      });
      const sums = Array.from({ length: size ** 2 }, (_, at) => ofHeads.reduce((sum, ofHead) => sum + ofHead[at], 0));
      const most = Math.max(...sums);
      const least = layer === layers - 1 ? 0 : Math.max(0, tau * most);
      for (const at of [...sums.keys()].filter((n) => sums[n] > least).sort((one, other) => sums[other] - sums[one])) {
        const [query, key] = [Math.floor(at / size), at % size];
        if (joined.has(`${query},${key}`)) continue;
        joined.add(`${query},${key}`).add(`${key},${query}`);
        const head = ofHeads.reduce((best, ofHead, n) => (ofHead[at] > ofHeads[best][at] ? n : best), 0);
        add({ layer, head, query, key, score: sums[at], share: sums[at] / most });
      }
    }
    for (const [level, token] of [...nodes].map((node) => node.split(",").map(Number))) {
      for (let layer = 0; layer < level; layer++) {
        if (!edges.has(`${layer},${token},${token}`)) add({ layer, query: token, key: token, score: 0 });
      }
    }
    for (let level = 0; level <= layers; level++) {
      tokens.forEach((name, token) => {
        if (name !== "[SEP]" || [...edges.values()].some((edge) => edge.layer === level - 1 && edge.query === token)) return;
        for (const [key, edge] of edges) if (edge.layer === level && edge.key === token) edges.delete(key);
      });
    }
    return [...edges.values()];
  }

  return { attribute, graph, take, tokenize, vocabularyOf, live, file, TextError };
})();
