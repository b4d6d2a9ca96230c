// "Your own sentence": attribution, computed in the reader's browser. attattr.attribute(text, { task }) computes, the form shows it.
// What is computed, and why each file is a script, stands in book/_ext/live_model.py.
"use strict";

globalThis.attattr = (() => {
  const base = globalThis.document?.currentScript.src.replace(/[^/]*$/, "");
  const live = globalThis.attattrLive; // from live_model.py: folder, size, most (tokens), tasks: { labels, columns }

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
    const pieces = [];
    for (let start = 0, end; start < letters.length; start = end) {
      const piece = () => (start ? "##" : "") + letters.slice(start, end).join("");
      for (end = letters.length; end > start && !vocabulary.has(piece()); end--);
      if (end === start || letters.length > 100) return ["[UNK]"];
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
      tokens.push(...pieces, "[SEP]");
      types.push(...Array(pieces.length + 1).fill(number));
    });
    return { tokens, types, ids: tokens.map((token) => vocabulary.get(token)) };
  }

  const vocabularyOf = (text) => new Map(text.trimEnd().split("\n").map((token, id) => [token, id]));

  // A file comes as a script, which gives its bytes to attattr.take. From a server it is kept by the browser (Cache API).
  const taken = new Map();

  function take(name, text) {
    const bytes = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at); // x-user-defined: the low eight bits are the byte
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
    await new Promise((resolve, reject) => {
      const onerror = () => reject(new Error(`${name}.js cannot be loaded`));
      document.head.append(Object.assign(document.createElement("script"), { src, charset: "x-user-defined", onload: resolve, onerror }));
    });
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

  // One question after the other. A worker that fell (memory) is not asked again: the next text starts another one.
  let before = Promise.resolve();
  function ask(worker, question, transfer = []) {
    const answer = before.then(() => new Promise((resolve, reject) => {
      if (worker.fell) reject(worker.fell);
      worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data));
      worker.onerror = (event) => reject(new Error(event.message || "the worker stopped"));
      worker.postMessage(question, transfer);
    }));
    before = answer.catch((error) => {
      worker.fell ??= error;
      worker.terminate();
      files.delete("engine");
    });
    return answer;
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
  async function attribute(text, { task = "sst2", told } = {}) {
    if (!Object.hasOwn(live.tasks, task)) throw new Error(`task ${task}: expected one of ${Object.keys(live.tasks).join(", ")}`);
    const parts = [text].flat();
    const { labels, columns } = live.tasks[task];
    const pair = columns.length > 1;
    if (parts.length !== columns.length || !parts.every((part) => typeof part === "string")) {
      throw new Error(`${JSON.stringify(text)}: expected ${pair ? "an array of two strings" : "a string"}`);
    }
    if (!parts.every((part) => part.trim())) {
      throw new RangeError(`There is nothing to read: write a sentence${pair ? " in each field" : ""}.`);
    }
    const { worker, vocabulary } = await once("engine", () => engine(told));
    const numbers = await once(task, () => file(task, told));
    const { tokens, ids, types } = tokenize(parts, vocabulary);
    if (tokens.length > live.most) {
      throw new RangeError(`This text has ${tokens.length} tokens. At most ${live.most} fit here: make it shorter.`);
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
    const order = Array.from(scores.keys()).sort((one, other) => scores[other] - scores[one] || one - other).slice(0, count);
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
      const found = [];
      for (let at = 0; at < size * size; at++) {
        let score = 0;
        let head = 0;
        const of = (h) => scores[(layer * heads + h) * size * size + at];
        for (let h = 0; h < heads; h++) { score += of(h); if (of(h) > of(head)) head = h; }
        found.push({ layer, head, query: Math.floor(at / size), key: at % size, score });
      }
      const most = Math.max(...found.map((edge) => edge.score));
      const least = layer === layers - 1 ? 0 : tau * most;
      for (const edge of found.filter(({ score }) => most > 0 && score > least).sort((one, other) => other.score - one.score)) {
        if (joined.has(`${edge.query},${edge.key}`)) continue;
        joined.add(`${edge.query},${edge.key}`).add(`${edge.key},${edge.query}`);
        add({ ...edge, share: edge.score / most });
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

  return { attribute, graph, take, tokenize, vocabularyOf, live, file };
})();
