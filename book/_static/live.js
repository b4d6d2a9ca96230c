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
      const pieces = part.split(SPECIAL).flatMap((piece, n) => (n % 2 ? [piece] : wordsOf(piece).flatMap((word) => piecesOf(word, vocabulary))));
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
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i); // x-user-defined: the low eight bits are the byte
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
    return taken.get(name);
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
        const task = new ort.Tensor("float16", data.task, [data.task.length]);
        const found = await session.run({ ids: row(data.ids), types: row(data.types), task });
        postMessage(Object.fromEntries(Object.entries(found).map(([name, tensor]) => [name, tensor.data.slice()])));
      } catch (error) {
        postMessage({ error: String(error) });
      }
    };
  }

  // One question after the other; a worker that fell (memory) is told of by its error.
  let before = Promise.resolve();
  function ask(worker, question, transfer = []) {
    const answer = before.then(() => new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data));
      worker.onerror = (event) => reject(new Error(event.message || "the worker stopped"));
      worker.postMessage(question, transfer);
    }));
    before = answer.catch(() => { // what fell once (memory) is not asked again: the next question starts anew
      worker.terminate();
      files.delete("engine");
    });
    return answer;
  }

  async function engine(told) {
    if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly");
    const [ort, wasm, model, vocabulary] = await Promise.all(["ort", "wasm", "model", "vocabulary"].map((name) => file(name, told)));
    taken.clear();
    const worker = new Worker(URL.createObjectURL(new Blob([`(${inWorker})()`], { type: "text/javascript" })));
    await ask(worker, { ort, wasm, model }, [ort.buffer, wasm.buffer, model.buffer]);
    return { worker, vocabulary: vocabularyOf(new TextDecoder().decode(vocabulary)) };
  }

  // The decision about a text (of MNLI: [premise, hypothesis]), and its attribution; layers, heads and tokens count from 0, as in Python.
  async function attribute(text, { task = "sst2", told } = {}) {
    if (!Object.hasOwn(live.tasks, task)) throw new Error(`task ${task}: expected one of ${Object.keys(live.tasks).join(", ")}`);
    const parts = [text].flat();
    const { labels, columns } = live.tasks[task];
    if (parts.length !== columns.length || !parts.every((part) => typeof part === "string")) {
      throw new Error(`${JSON.stringify(text)}: expected ${columns.length === 1 ? "a string" : `an array of two strings, ${columns.join(" and ")}`}`);
    }
    if (!parts.every((part) => part.trim())) throw new RangeError(`There is nothing to read: write a sentence${columns.length > 1 ? " in each field" : ""}.`);
    const { worker, vocabulary } = await once("engine", () => engine(told));
    const numbers = await once(task, () => file(task, told));
    const { tokens, ids, types } = tokenize(parts, vocabulary);
    if (tokens.length > live.most) throw new RangeError(`This text has ${tokens.length} tokens. At most ${live.most} fit here: make it shorter.`);
    const started = performance.now();
    const found = await ask(worker, { ids, types, task: new Uint16Array(numbers.buffer) });
    const layers = found.difference.length;
    const [probability, label] = labels.map((name, n) => [found.probabilities[n], name]).sort((one, other) => other[0] - one[0])[0];
    const size = found.scores.length / layers;
    const completeness = Array.from(found.difference, (lost, layer) => {
      return Math.abs(found.scores.subarray(layer * size, (layer + 1) * size).reduce((sum, score) => sum + score, 0) - lost);
    });
    const result = { label, probability, tokens, strongest: strongest(found.scores, layers, tokens.length), completeness };
    const rest = { ...found, task, labels, layers, heads: size / tokens.length ** 2, seconds: (performance.now() - started) / 1000 };
    for (const [name, value] of Object.entries(rest)) Object.defineProperty(result, name, { value }); // there, and not in JSON
    return result;
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

// The form, and what it shows.
(() => {
  const { attribute, graph, file, live } = attattr;
  const words = { columns: { sentence: "Sentence", sentence1: "Premise", sentence2: "Hypothesis" }, tasks: { sst2: "praise or blame (SST-2)", mnli: "a pair of sentences (MNLI)" } };

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) typeof value === "function" ? node.addEventListener(name, value) : node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  const html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
  const svg = (name, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  const titled = (text, name, attributes) => svg(name, attributes, svg("title", {}, text));
  const label = (text, control) => html("label", {}, `${text} `, control);
  const letter = 7.4; // pixels, about

  const inWords = ({ tokens }, { layer, head, query, key, score }) =>
    `layer ${layer}${head === undefined ? "" : `, head ${head}`}: “${tokens[query]}” reads “${tokens[key]}”, ${score.toFixed(4)}`;

  function table(result, rows) {
    const heading = ["layer", "head", "who reads", "what is read", "score"].map((name) => html("th", { scope: "col" }, name));
    const lines = rows.map(({ layer, head, query, key, score }) =>
      html("tr", {}, ...[layer, head, result.tokens[query], result.tokens[key], score.toFixed(4)].map((cell) => html("td", {}, `${cell}`))));
    const caption = html("caption", {}, "The strongest connections: what each gives to the probability of the decision. Layers and heads count from 0.");
    return html("div", { class: "numbers" }, html("table", { class: "numbers" }, caption, html("thead", {}, html("tr", {}, ...heading)), html("tbody", {}, ...lines)));
  }

  // Levels from left to right, tokens from top to bottom; each line a connection that the graph admits, dashed grey: the token itself.
  function drawnGraph(result, tau, width) {
    const { tokens, layers } = result;
    const edges = graph(result, tau);
    const room = letter * Math.max(...tokens.map((token) => token.length)) + 12;
    const x = (level) => room + ((width - room - 14) * level) / layers;
    const y = (token) => 40 + 22 * token;
    const admitted = edges.filter((edge) => edge.score > 0);
    const lines = [...edges].reverse().map((edge) => {
      const [from, to, turn] = [x(edge.layer), x(edge.layer + 1), (x(1) - x(0)) / 2];
      const d = `M${from} ${y(edge.key)}C${from + turn} ${y(edge.key)} ${to - turn} ${y(edge.query)} ${to} ${y(edge.query)}`;
      if (!edge.score) return svg("path", { d, class: "live-same" });
      return titled(inWords(result, { ...edge, head: undefined }) + `, most of it in head ${edge.head}`, "path", { d, class: "live-up", "stroke-width": 1 + 6 * edge.share });
    });
    const names = tokens.map((token, n) => svg("text", { x: room - 8, y: y(n) + 4, "text-anchor": "end" }, token));
    const levels = Array.from({ length: layers }, (_, layer) => svg("text", { x: (x(layer) + x(layer + 1)) / 2, y: 14, "text-anchor": "middle" }, `${layer}`));
    const end = svg("circle", { cx: x(layers), cy: y(0), r: 6, class: "live-end" });
    const alt = `Attribution graph, τ = ${tau}: ${admitted.length} connections lead to the decision at [CLS]. They stand in words below.`;
    const height = y(tokens.length);
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": alt }, ...levels, ...lines, ...names, end);
    return [drawing, admitted];
  }

  // One head: who reads (rows) what (columns); a cross marks a score below 0, so that colour does not say it alone.
  function drawnHead(result, layer, head, kind, width) {
    const { tokens, heads } = result;
    const size = tokens.length;
    const values = result[kind].subarray((layer * heads + head) * size * size, (layer * heads + head + 1) * size * size);
    const most = kind === "attention" ? 1 : result.scores.reduce((sum, score) => Math.max(sum, Math.abs(score)), 0) || 1;
    const room = letter * Math.max(...tokens.map((token) => token.length)) + 12;
    const cell = Math.min(26, (width - room) / size);
    const parts = tokens.flatMap((token, n) => {
      const [across, down] = [room + cell * (n + 0.5) + 4, room + cell * (n + 0.5) + 4];
      return [svg("text", { x: room - 6, y: down, "text-anchor": "end" }, token), svg("text", { transform: `translate(${across} ${room - 6}) rotate(-90)` }, token)];
    });
    values.forEach((value, at) => {
      const share = Math.abs(value) / most;
      if (share < 0.01) return;
      const [x, y] = [room + cell * (at % size), room + cell * Math.floor(at / size)];
      const told = inWords(result, { layer, head, query: Math.floor(at / size), key: at % size, score: value });
      parts.push(titled(told, "rect", { x, y, width: cell - 1, height: cell - 1, "fill-opacity": Math.sqrt(share), class: value < 0 ? "live-less" : "live-more" }));
      if (value < 0 && share > 0.05) parts.push(svg("path", { d: `M${x} ${y}l${cell - 1} ${cell - 1}m0 ${1 - cell}l${1 - cell} ${cell - 1}`, class: "live-cross" }));
    });
    const alt = `${kind === "attention" ? "Attention" : "Scores"} of layer ${layer}, head ${head}: rows read, columns are read.`;
    const side = room + cell * size;
    return svg("svg", { viewBox: `0 0 ${side} ${side}`, width: side, height: side, role: "img", "aria-label": alt }, ...parts);
  }

  const slider = (most, value, input) => html("input", { type: "range", min: 0, max: most, value, input });
  const options = (names, change, chosen = 0) => html("select", { change }, ...names.map((name, n) => html("option", { value: n, ...(n === chosen && { selected: "" }) }, name)));

  function figures(result, place) {
    const width = Math.max(300, Math.min(760, place.clientWidth));
    const picture = html("div", { class: "live-picture" });
    const list = html("ol");
    const value = html("output");
    const tau = slider(19, 8, () => draw());
    function draw() {
      value.textContent = (tau.value / 20).toFixed(2);
      tau.setAttribute("aria-valuetext", value.textContent);
      const [drawing, admitted] = drawnGraph(result, tau.value / 20, width);
      picture.replaceChildren(drawing);
      list.replaceChildren(...admitted.map((edge) => html("li", {}, inWords(result, { ...edge, head: undefined }))));
    }
    draw();
    const first = result.strongest[0];
    const head = html("div", { class: "live-picture" });
    const show = () => head.replaceChildren(drawnHead(result, +layers.value, +heads.value, ["scores", "attention"][kinds.value], width));
    const upTo = (count) => Array.from({ length: count }, (_, n) => `${n}`);
    const [layers, heads] = [options(upTo(result.layers), show, first.layer), options(upTo(result.heads), show, first.head)];
    const kinds = options(["scores", "attention"], show);
    show();
    const bar = html("p", {}, html("b", {}, "The flow of the decision. "), "Tokens from top to bottom, layers from left to right. A line joins a token (left) to the one that reads it (right). ",
      "The width tells the score. A dashed line is the token itself, handed on. The decision is read at the disc.");
    const note = html("p", {}, html("b", {}, "One head. "), "Rows read, columns are read. The darker a cell, the larger the number. A cross marks a score below 0: the connection speaks against the decision.");
    return [bar, html("div", { class: "live-controls" }, label("Threshold τ", tau), value), picture, html("details", {}, html("summary", {}, "In words"), list),
      note, html("div", { class: "live-controls" }, label("Layer", layers), label("Head", heads), label("Show", kinds)), head];
  }

  function notes(texts, result) {
    const unknown = result.tokens.filter((token) => token === "[UNK]").length;
    return [
      ...(texts.some((text) => /\p{L}/u.test(text)) ? [] : ["There is no letter in this text. The model decides all the same: it must choose a class."]),
      ...(unknown ? [`The model has no token for ${unknown} of the words or signs (an emoji, for one). It reads [UNK] in their place.`] : []),
    ].map((note) => html("p", {}, note));
  }

  function certificate({ completeness, difference }) {
    const worst = Math.max(...completeness);
    const holds = completeness.every((gap, layer) => gap <= 0.01 * Math.max(Math.abs(difference[layer]), 0.01));
    const end = holds ? "So the scores are complete, to 1 %." : `That is more than 1 % in ${completeness.length > 1 ? "a layer" : "the layer"}: take the scores as a sketch.`;
    return html("p", {}, html("b", {}, "Check. "), `The scores of a layer must add up to what the decision loses without the attention of that layer. Here the largest gap is ${worst.toPrecision(1)}. ${end}`);
  }

  const decision = ({ label, probability }) => html("p", { class: "live-decision" }, "The model decides: ", html("strong", {}, label), `, p = ${probability.toFixed(3)}`);

  // The sentences that were computed when the book was built: for a browser that cannot, and to look around in.
  function before() {
    const result = html("div");
    const search = html("input", { type: "search", input: () => list() });
    const select = html("select", { size: 6, change: () => result.replaceChildren(decision(found[select.value]), table(found[select.value], found[select.value].strongest)) });
    const fold = html("details", { class: "live-before", toggle: () => found.length || load() }, html("summary", {}, "Sentences computed before (nothing to load)"),
      html("div", { class: "live-controls" }, label("Search", search), label("Sentence", select)), result);
    let found = [];
    const list = () => select.replaceChildren(...found.flatMap(({ text }, n) => (text.includes(search.value) ? [html("option", { value: n }, text)] : [])));
    async function load() {
      const connection = ([layer, head, query, key, score]) => ({ layer, head, query, key, score });
      const rows = JSON.parse(new TextDecoder().decode(await file("examples")));
      found = rows.map((row) => ({ ...row, strongest: row.strongest.map(connection) }));
      list();
    }
    return fold;
  }

  function mount(place) {
    const small = "small" in place.dataset;
    const names = Object.keys(live.tasks);
    let [task, texts, ready] = [names[0], [], false];
    const fields = html("div");
    const button = html("button", { type: "submit" });
    const progress = html("progress", { max: live.size, hidden: "" });
    const status = html("p", { role: "status" });
    const result = html("div");
    const fallback = before();
    function ask() {
      texts = live.tasks[task].columns.map((column, n) => html("textarea", { rows: 2, spellcheck: "false" }, live.tasks[task].example[n]));
      fields.replaceChildren(...texts.map((text, n) => label(words.columns[live.tasks[task].columns[n]], text)));
      button.textContent = ready ? "Decide" : `Load the model (${Math.round(live.size / 1e6)} MB, once) and decide`;
    }
    async function submit(event) {
      event.preventDefault();
      const given = texts.map((text) => text.value);
      button.disabled = true;
      progress.hidden = ready;
      status.textContent = ready ? "Computing …" : "Loading, then computing …";
      try {
        const told = (bytes) => { progress.value = (progress.value || 0) + bytes; };
        const found = await attribute(given, { task, told });
        ready = true;
        status.textContent = `Computed in this browser, in ${found.seconds.toFixed(1)} seconds.`;
        result.replaceChildren(decision(found), ...notes(given, found), ...(small ? [] : [certificate(found), ...figures(found, place)]), table(found, found.strongest.slice(0, small ? 5 : 20)));
      } catch (error) {
        result.replaceChildren();
        status.textContent = error instanceof RangeError ? error.message : `It could not be computed here (${error.message}). Below are sentences that were computed before.`;
        fallback.open = !(error instanceof RangeError);
      }
      [button.disabled, progress.hidden] = [false, true];
      if (ready) button.textContent = "Decide";
    }
    const menu = label("Task", options(names.map((name) => words.tasks[name]), (event) => { task = names[event.target.value]; result.replaceChildren(); ask(); }));
    ask();
    place.replaceChildren(html("form", { submit }, ...(small ? [] : [menu]), fields, button), progress, status, result, ...(small ? [] : [fallback]));
  }

  globalThis.document?.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".attattr-live").forEach(mount));
})();
