// The form of "Your own sentence", and what it shows of what attattr.attribute (live.js) computes.
"use strict";

(() => {
  const { attribute, graph, file, live, TextError } = attattr;
  const COLUMNS = { sentence: "Sentence", sentence1: "Premise", sentence2: "Hypothesis" };
  const TASKS = { sst2: "praise or blame (SST-2)", mnli: "a pair of sentences (MNLI)" };
  const LETTER = 7.4; // pixels, about
  const MOST_DRAWN = 200; // connections: of 128 tokens tens of thousands can be admitted

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(name, value);
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }
  const html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
  const svg = (name, attributes = {}, ...children) => {
    return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  };
  const titled = (title, name, attributes) => svg(name, attributes, svg("title", {}, title)); // shown under the pointer
  const label = (text, control) => html("label", {}, `${text} `, control);
  const controls = (...children) => html("div", { class: "live-controls" }, ...children);
  const paragraph = (title, text) => html("p", {}, html("b", {}, `${title} `), text);

  function menu(names, change, chosen = 0) {
    const select = html("select", { change }, ...names.map((name, n) => html("option", { value: n }, name)));
    select.value = chosen;
    return select;
  }

  const reads = ({ tokens }, { query, key, score }) => `“${tokens[query]}” reads “${tokens[key]}”, ${score.toFixed(4)}`;
  const roomFor = (tokens) => LETTER * Math.max(...tokens.map((token) => token.length)) + 12;

  function drawing(width, height, description, parts) {
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": description }, ...parts);
  }

  function table({ tokens }, rows) {
    const heading = ["layer", "head", "who reads", "what is read", "score"].map((name) => html("th", { scope: "col" }, name));
    const lines = rows.map(({ layer, head, query, key, score }) => {
      const cells = [layer, head, tokens[query], tokens[key], score.toFixed(4)];
      return html("tr", {}, ...cells.map((cell) => html("td", {}, `${cell}`)));
    });
    const caption = "The strongest connections: what each gives to the probability of the decision. Layers and heads count from 0.";
    const [head, body] = [html("thead", {}, html("tr", {}, ...heading)), html("tbody", {}, ...lines)];
    return html("div", { class: "numbers" }, html("table", { class: "numbers" }, html("caption", {}, caption), head, body));
  }

  // Levels from left to right, tokens from top to bottom; each line a connection of the graph, dashed: the token itself.
  function graphOf(result, tau, width) {
    const { tokens, layers } = result;
    const edges = graph(result, tau);
    const admitted = edges.filter((edge) => edge.score > 0);
    const least = admitted.map((edge) => edge.share).sort((one, other) => other - one)[MOST_DRAWN - 1] ?? 0;
    const drawn = admitted.filter((edge) => edge.share >= least);
    const room = roomFor(tokens);
    const x = (level) => room + ((width - room - 14) * level) / layers;
    const y = (token) => 40 + 22 * token;
    const lines = [...edges.filter((edge) => !edge.score), ...drawn.toReversed()].map((edge) => {
      const [from, to, turn] = [x(edge.layer), x(edge.layer + 1), (x(1) - x(0)) / 2];
      const d = `M${from} ${y(edge.key)}C${from + turn} ${y(edge.key)} ${to - turn} ${y(edge.query)} ${to} ${y(edge.query)}`;
      if (!edge.score) return svg("path", { d, class: "live-same" });
      const told = `layer ${edge.layer}: ${reads(result, edge)}, most of it in head ${edge.head}`;
      return titled(told, "path", { d, class: "live-up", "stroke-width": 1 + 6 * edge.share });
    });
    const names = tokens.map((token, n) => svg("text", { x: room - 8, y: y(n) + 4, "text-anchor": "end" }, token));
    const numbers = Array.from({ length: layers }, (_, layer) => {
      return svg("text", { x: (x(layer) + x(layer + 1)) / 2, y: 14, "text-anchor": "middle" }, `${layer}`);
    });
    numbers.push(svg("text", { x: room - 8, y: 14, "text-anchor": "end" }, "layer"));
    const end = svg("circle", { cx: x(layers), cy: y(0), r: 6, class: "live-end" });
    const rest = admitted.length - drawn.length;
    const count = `${admitted.length} connections${rest ? `, of which the ${drawn.length} widest are drawn` : ""}`;
    const description = `Attribution graph, τ = ${tau}: ${count}. They lead to the decision at [CLS]. In words: below.`;
    const list = drawn.map((edge) => html("li", {}, `layer ${edge.layer}: ${reads(result, edge)}`));
    return [drawing(width, y(tokens.length), description, [...numbers, ...lines, ...names, end]), list, count];
  }

  // One head: rows read, columns are read; a cross marks a score below 0, so that colour does not say it alone.
  function headOf(result, layer, head, kind, width) {
    const { tokens, heads } = result;
    const size = tokens.length;
    const at = (layer * heads + head) * size * size;
    const most = kind === "attention" ? 1 : result.scores.reduce((largest, score) => Math.max(largest, Math.abs(score)), 1e-9);
    const room = roomFor(tokens);
    const cell = Math.max(5, Math.min(26, (width - room) / size));
    const parts = tokens.flatMap((token, n) => {
      const middle = room + cell * (n + 0.5) + 4;
      const above = { transform: `translate(${middle} ${room - 6}) rotate(-90)` };
      return [svg("text", { x: room - 6, y: middle, "text-anchor": "end" }, token), svg("text", above, token)];
    });
    result[kind].subarray(at, at + size * size).forEach((score, n) => {
      const share = Math.abs(score) / most;
      if (share < 0.01) return;
      const [query, key] = [Math.floor(n / size), n % size];
      const [x, y, side] = [room + cell * key, room + cell * query, cell - 1];
      const look = { x, y, width: side, height: side, "fill-opacity": Math.sqrt(share), class: score < 0 ? "live-less" : "live-more" };
      parts.push(titled(reads(result, { query, key, score }), "rect", look));
      const d = `M${x} ${y}l${side} ${side}m0 ${-side}l${-side} ${side}`;
      if (score < 0 && share > 0.05) parts.push(svg("path", { d, class: "live-cross" }));
    });
    const description = `${kind === "attention" ? "Attention" : "Scores"} of layer ${layer}, head ${head}: rows read, columns are read.`;
    return drawing(room + cell * size, room + cell * size, description, parts);
  }

  function figures(result, place) {
    const width = Math.max(300, Math.min(760, place.clientWidth));
    const [above, below] = [html("div", { class: "live-picture" }), html("div", { class: "live-picture" })];
    const [list, value] = [html("ol"), html("output")];
    const tau = html("input", { type: "range", min: 0, max: 19, value: 8, input: drawGraph });
    function drawGraph() {
      const [picture, lines, count] = graphOf(result, tau.value / 20, width);
      value.textContent = `${(tau.value / 20).toFixed(2)}: ${count}`;
      tau.setAttribute("aria-valuetext", value.textContent);
      above.replaceChildren(picture);
      list.replaceChildren(...lines);
    }
    const drawHead = () => below.replaceChildren(headOf(result, +layer.value, +head.value, ["scores", "attention"][kind.value], width));
    const upTo = (count) => [...Array(count).keys()];
    const layer = menu(upTo(result.layers), drawHead, result.strongest[0].layer);
    const head = menu(upTo(result.heads), drawHead, result.strongest[0].head);
    const kind = menu(["scores", "attention"], drawHead);
    drawGraph();
    drawHead();
    return [
      paragraph("The attribution graph.", "Tokens from top to bottom, layers from left to right. A line joins a token (left) to the " +
        "token that reads it (right). Its width is the score. A dashed line is the token itself, handed on. The decision is read at the disc."),
      controls(label("Threshold τ", tau), value), above, html("details", {}, html("summary", {}, "In words"), list),
      paragraph("One head.", "Rows read, columns are read. The stronger the colour, the larger the number. " +
        "A cross marks a score below 0: the connection speaks against the decision."),
      controls(label("Layer", layer), label("Head", head), label("Show", kind)), below,
    ];
  }

  function unknown({ tokens }) {
    const count = tokens.filter((token) => token === "[UNK]").length;
    const told = `The model has no token for ${count} of the words or signs (an emoji, for one). It reads [UNK] there.`;
    return count ? [html("p", {}, told)] : [];
  }

  function certificate({ completeness, difference, nodes }) {
    const worst = Math.max(...completeness.map((gap, layer) => gap / Math.max(Math.abs(difference[layer]), 0.01)));
    const gap = `Here the largest gap is ${Number((100 * worst).toPrecision(2))} % of it, with ${nodes} gradients a layer. `;
    return paragraph("Completeness.", "The scores of a layer must add up to what the decision loses without the attention of that layer. " +
      gap + (worst <= 0.01 ? "The scores are complete." : "That is more than 1 %: take the scores as a sketch."));
  }

  function decision({ label, probability }) {
    return html("p", { class: "live-decision" }, "The model decides: ", html("strong", {}, label), `, probability ${probability.toFixed(3)}`);
  }

  // The sentences that were computed when the book was built: for a browser that cannot compute, and to look around in.
  function before() {
    let found = [];
    const result = html("div");
    const search = html("input", { type: "search", input: list });
    const select = html("select", { size: 6, change: show });
    function list() {
      const fits = ({ text }) => text.toLowerCase().includes(search.value.toLowerCase());
      select.replaceChildren(...found.flatMap((row, n) => (fits(row) ? [html("option", { value: n }, row.text)] : [])));
    }
    function show() {
      const row = found[select.value];
      const rows = row.strongest.map(([layer, head, query, key, score]) => ({ layer, head, query, key, score }));
      result.replaceChildren(decision(row), table(row, rows));
    }
    async function load() {
      if (found.length) return;
      try {
        found = JSON.parse(new TextDecoder().decode(await file("examples")));
        list();
      } catch (error) {
        result.textContent = `The sentences cannot be loaded: ${error.message}.`;
      }
    }
    const summary = html("summary", {}, "No download: sentences that were computed before");
    const choice = controls(label("Search", search), label("Sentence", select));
    return html("details", { class: "live-before", toggle: load }, summary, choice, result);
  }

  function mount(place) {
    const small = "small" in place.dataset; // on the index: the decision and five connections
    const names = Object.keys(live.tasks);
    let [task, texts] = [names[0], []];
    const ready = new Set(); // tasks that have answered
    const [fields, result, status] = [html("div"), html("div"), html("p", { role: "status" })];
    const button = html("button", { type: "submit" });
    const progress = html("progress", { hidden: "", "aria-label": "Loading" });
    const fallback = before();
    const missing = () => (ready.size ? 0 : live.size) + (ready.has(task) ? 0 : live.tasks[task].size);
    const megabytes = () => `${Math.ceil(missing() / 1e6)} MB`;
    function ask() {
      const { columns, example } = live.tasks[task];
      texts = example.map((text) => html("textarea", { rows: 2, spellcheck: "false" }, text));
      fields.replaceChildren(...texts.map((text, n) => label(COLUMNS[columns[n]], text)));
      result.replaceChildren();
      button.textContent = missing() ? `Load the model (${megabytes()}, once) and decide` : "Decide";
    }
    const select = menu(names.map((name) => TASKS[name]), () => { task = names[select.value]; ask(); });
    async function submit(event) {
      event.preventDefault();
      const given = texts.map((text) => text.value);
      const focused = document.activeElement === button;
      status.textContent = missing() ? `Loading ${megabytes()}, then computing …` : "Computing …";
      [progress.max, progress.hidden] = [missing(), !missing()];
      progress.removeAttribute("value");
      button.disabled = select.disabled = true;
      try {
        const found = await attribute(given, { task, told: (bytes) => { progress.value += bytes; } });
        ready.add(task);
        button.textContent = "Decide";
        status.textContent = `Computed in this browser, in ${found.seconds.toFixed(1)} seconds.`;
        const said = [decision(found), ...unknown(found)];
        if (small) result.replaceChildren(...said, table(found, found.strongest.slice(0, 5)));
        else result.replaceChildren(...said, ...figures(found, place), table(found, found.strongest), certificate(found));
      } catch (error) {
        const unfit = error instanceof TextError;
        result.replaceChildren();
        const instead = "Sentences that were computed before are in the list.";
        status.textContent = unfit ? error.message : `It cannot be computed here: ${error.message}. ${instead}`;
        fallback.open ||= !unfit;
      }
      button.disabled = select.disabled = false;
      progress.hidden = true;
      if (focused) button.focus();
    }
    ask();
    const form = html("form", { submit }, ...(small ? [] : [label("Task", select)]), fields, button);
    place.replaceChildren(form, progress, status, result, fallback);
  }

  document.querySelectorAll(".attattr-live").forEach(mount);
})();
