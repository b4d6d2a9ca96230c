// Draws the Plotly figures of a page as they come near, and gives them what Plotly has not: native controls (its own cannot be reached
// with the keyboard, are unknown to screen readers and too small for a thumb), words for what is shown, one column on a telephone,
// and words at which one can point. Plotly itself is loaded by the first figure.
"use strict";

(() => {
const NARROW = 600;  // pixels: below, panels stand below one another
const PAPER = 660;  // pixels: the width of a printed page
const MOST = 40;  // values that are told in words
const touch = matchMedia("(pointer: coarse)").matches;
// Beside this file; in a notebook, which has no files beside it, attattr.book.pages says where.
const bundle = window.attattrPlotly ?? { src: new URL("plotly-cartesian.min.js", document.currentScript.src) };

let loading;  // once, whichever figure asks first
const plotly = () => loading ??= window.Plotly ? Promise.resolve() : new Promise((loaded, failed) => {
  const script = Object.assign(document.createElement("script"), bundle, { onload: loaded, onerror: failed });
  document.head.append(script);
});

function element(kind, properties, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

// Plotly's labels are HTML ("&lt;s&gt;"), those of native controls are words. A parsed document loads nothing and runs nothing.
const unescaped = (label) => new DOMParser().parseFromString(String(label).replaceAll("<br>", ", "), "text/html").body.textContent.trim();

// Controls, each with `now`, what it says at present. `apply` shows one of Plotly's steps or buttons.

function slider(spec, apply) {
  const input = element("input", { type: "range", max: spec.steps.length - 1 });
  input.value = spec.active ?? 0;
  const shown = element("output", {});
  const prefix = spec.currentvalue?.prefix?.trim() || "Step";
  const name = () => {
    shown.textContent = unescaped(spec.steps[input.value].label);
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => { name(); apply(spec.steps[input.value]); });
  name();
  const label = element("label", {}, prefix + " ", input, " ", shown);
  label.now = () => `${prefix} ${shown.textContent}`;
  return label;
}

function menu(spec, apply) {
  const select = element("select", {});
  spec.buttons.forEach((button, i) => select.add(new Option(unescaped(button.label), i, i === (spec.active ?? 0), i === (spec.active ?? 0))));
  select.addEventListener("change", () => apply(spec.buttons[select.value]));
  const label = element("label", {}, (spec.name ?? "Show") + " ", select);
  label.now = () => `${spec.name ?? "Show"} ${select.selectedOptions[0].text}`;
  return label;
}

// Curves that wait in the legend ("legendonly"): a click on the legend shows them, or this box, which the keyboard reaches.
function box(canvas, data, changed) {
  const group = (trace) => trace.legendgroup || trace.name;  // a band has no name, and goes with its curve
  const groups = new Set(data.filter((trace) => trace.visible === "legendonly").map(group));
  if (!groups.size) return [];
  const input = element("input", { type: "checkbox" }), named = element("span", {});
  const show = () => {
    const some = canvas.data.flatMap((trace, i) => groups.has(group(trace)) && trace.visible !== false ? [i] : []);
    const waiting = new Set(some.map((i) => canvas.data[i].name).filter(Boolean));  // not every entry of a menu has them all
    named.textContent = ` with ${[...waiting].map(unescaped).join(", ")}`;
    return some.length && Plotly.restyle(canvas, { visible: input.checked || "legendonly" }, some);
  };
  input.addEventListener("change", changed);  // which asks every control to show again what it stands for
  const label = element("label", { className: "box" }, input, named);
  label.now = () => input.checked ? named.textContent.trim() : "";
  label.again = show;
  show();
  return [label];
}

// One column: panels that stand beside one another, each with its own y-axis, as panels one below the other. What to give to
// `Plotly.update` (traces, layout) for this column and for the panels as they were; null where there is nothing to rearrange.
function column(data, layout) {
  const full = (name) => layout[name]?.domain ?? [0, 1];
  const panels = Object.keys(layout).filter((name) => /^xaxis\d*$/.test(name))
    .map((x) => ({ x, y: (layout[x].anchor ?? "y").replace("y", "yaxis"), ends: full(x) }));
  const starts = [...new Set(panels.map((panel) => panel.ends[0]))].sort((a, b) => a - b);
  if (starts.length < 2 || new Set(panels.map((panel) => panel.y)).size < panels.length) return null;
  const { t = 100, b = 80 } = layout.margin ?? {};
  const plot = layout.height - t - b, gap = Math.max(b, 40) + 24, total = starts.length * plot + (starts.length - 1) * gap;
  const place = (at, y) => ((starts.length - 1 - at) * (plot + gap) + y * plot) / total;
  const column_of = (panel) => starts.indexOf(panel.ends[0]);
  const wide = { height: layout.height }, tall = { height: total + t + b };
  for (const panel of panels) {
    const at = column_of(panel);
    wide[`${panel.x}.domain`] = full(panel.x);
    tall[`${panel.x}.domain`] = [0, 1];
    wide[`${panel.y}.domain`] = full(panel.y);
    tall[`${panel.y}.domain`] = full(panel.y).map((y) => place(at, y));
    if (layout[panel.y]?.showticklabels === false && at > 0) {
      wide[`${panel.y}.showticklabels`] = false;
      tall[`${panel.y}.showticklabels`] = true;
    }
  }
  (layout.annotations ?? []).forEach((note, i) => {
    const [x, y] = [note.xref ?? "x", note.yref ?? "y"];
    if (x !== "paper" && y !== "paper") return;
    const near = x === "paper" ? panels.reduce((best, panel) => off(panel, note.x) < off(best, note.x) ? panel : best)
      : panels.find((panel) => panel.x === x.replace(/^x(\d*).*/, "xaxis$1")) ?? panels[0];
    const [left, right] = near.ends;
    if (x === "paper") {
      wide[`annotations[${i}].x`] = note.x;
      tall[`annotations[${i}].x`] = Math.min(1, Math.max(0, (note.x - left) / (right - left)));
    }
    if (y === "paper") {
      wide[`annotations[${i}].y`] = note.y;
      tall[`annotations[${i}].y`] = place(column_of(near), note.y);
    }
  });
  const apart = (y) => y < 0 ? y * plot / total : y > 1 ? 1 + (y - 1) * plot / total : y;  // what stands outside keeps its distance
  if (layout.legend?.y !== undefined) [wide["legend.y"], tall["legend.y"]] = [layout.legend.y, apart(layout.legend.y)];
  const bars = data.flatMap((trace, i) => trace.type === "heatmap" && trace.showscale !== false && trace.colorbar ? [i] : []);
  const lies = (i) => data[i].colorbar.orientation === "h";
  const at = (i) => column_of(panels.find((panel) => panel.x === (data[i].xaxis ?? "x").replace("x", "xaxis")));
  const of = (key, value) => ({ [`colorbar.${key}`]: bars.map(value) });
  const own = (key, otherwise) => of(key, (i) => data[i].colorbar[key] ?? otherwise);
  return {
    bars,
    wide: [{ ...own("x", 1.02), ...own("y", null), ...own("len", null) }, wide],
    tall: [{
      ...of("x", (i) => lies(i) ? 0.5 : 1.02),
      ...of("y", (i) => lies(i) ? apart(data[i].colorbar.y ?? 1.02) : place(at(i), 0.5)),
      ...of("len", (i) => lies(i) ? 1 : 0.9 * plot / total),
    }, tall],
  };
}
const off = (panel, x) => Math.abs((panel.ends[0] + panel.ends[1]) / 2 - x);

// What stands under the pointer, for those who have none: the words of Plotly's own templates, trace by trace, the largest first.

function told(canvas) {
  const lines = [], axes = canvas._fullLayout;
  const traces = canvas._fullData.filter((trace) => trace.visible === true && trace.hoverinfo !== "skip").reverse();
  for (const trace of traces) {
    const named = (axis, value) => {
      const place = axis?.tickvals ? [...axis.tickvals].indexOf(value) : -1;
      return place >= 0 ? axis.ticktext?.[place] ?? value : value;
    };
    const at = { x: axes[(trace.xaxis ?? "x").replace("x", "xaxis")], y: axes[(trace.yaxis ?? "y").replace("y", "yaxis")] };
    const cell = (values, i, j) => values?.[i] && typeof values[i] === "object" ? values[i][j] : values?.[i];
    const say = (i, j) => {
      const value = {
        x: named(at.x, j === undefined ? trace.x?.[i] ?? i : trace.x?.[j] ?? j), y: named(at.y, trace.y?.[i] ?? i), z: cell(trace.z, i, j),
        text: typeof trace.text === "string" ? trace.text : cell(trace.text, i, j) ?? "", hovertext: cell(trace.hovertext, i, j) ?? "",
        customdata: cell(trace.customdata, i, j), fullData: trace, name: trace.name,
      };
      if (j === undefined) value.customdata = trace.customdata?.[i];
      if (!trace.hovertemplate) return (trace.hoverinfo === "text" ? "" : `${trace.name ?? ""} ${number(value.x)}, ${number(value.y)} `) + value.text;
      return trace.hovertemplate.replace(/<extra>.*/, "").replace(/%\{(\w+)(?:\.(\w+))?(?:\[(\d+)\])?(?::([^}]*))?\}/g, (_, name, key, place, form) => {
        const found = key ? value[name]?.[key] : place === undefined ? value[name] : value[name]?.[place];
        return number(found, form);
      });
    };
    if (trace.type === "heatmap") {
      const cells = [...trace.z].flatMap((row, i) => [...row].map((z, j) => [Math.abs(z), i, j])).filter(([z]) => z > 0);
      lines.push(...cells.sort((a, b) => b[0] - a[0]).slice(0, MOST).map(([, i, j]) => say(i, j)));
    } else if (trace.type === "box") {
      const boxes = canvas.calcdata[trace.index].filter((one) => one.med !== undefined);
      const middle = (one) => `median ${number(one.med)}, half of them ${number(one.q1)} to ${number(one.q3)}`;
      lines.push(...boxes.map((one) => `${trace.name ?? ""} ${number(named(at.x, one.pos))}: ${middle(one)}`));
    } else {
      const points = [...(trace.x ?? [])].flatMap((x, i) => x === null ? [] : [i]);
      const each = Math.max(1, Math.ceil(points.length / Math.max(4, Math.floor(MOST / traces.length))));  // some of a long line
      lines.push(...points.filter((_, n) => n % each === 0).map((i) => say(i)));
    }
  }
  return [...new Set(lines.map(unescaped))].filter((line) => line && line !== ",");
}

function number(value, form = "") {
  if (typeof value !== "number") return value ?? "";
  if (form.includes("%")) return (100 * value).toFixed(form.match(/\.(\d)/)?.[1] ?? 0) + " %";
  const written = String(+value.toPrecision(3)).replace("-", "−");
  return form.startsWith("+") && value > 0 ? "+" + written : written;
}

// A word of a picture of connections: its strands light up in every layer. `axis` is "x" or "y", on which the words stand.
function pointing(canvas, axis, say) {
  const names = canvas.layout[`${axis}axis`].ticktext.map(unescaped);
  const select = element("select", {}, new Option("all words", -1), ...names.map((name, i) => new Option(name, i)));

  // The ends of one piece of a path, the lower one first: its level, and the word at which it stands.
  function ends(piece, { xaxis, yaxis }) {
    const numbers = piece.match(/-?[\d.]+(?:e-?\d+)?/g)?.map(Number) ?? [];
    if (numbers.length < 4) return [];
    const at = [numbers.slice(0, 2), numbers.slice(-2)].map(([x, y]) => [xaxis.p2c(x), yaxis.p2c(y)]);
    return at.map(([x, y]) => axis === "x" ? { level: y, word: x } : { level: x, word: y }).sort((a, b) => a.level - b.level);
  }

  function light(word) {
    canvas.querySelectorAll(".strand").forEach((strand) => strand.remove());
    canvas.classList.toggle("pointed", word >= 0);
    const found = {};  // by panel and layer
    for (const path of word >= 0 ? canvas.querySelectorAll(".scatterlayer .js-line") : []) {
      const panel = [...path.closest(".subplot").classList].find((name) => /^x\d*y\d*$/.test(name));
      const hits = path.getAttribute("d").split(/(?=M)/).filter((piece) => {
        const [lower, upper] = ends(piece, canvas._fullLayout._plots[panel]);
        if (!lower || ![lower, upper].some((end) => Math.abs(end.word - word) < 0.1)) return false;
        const [read, reader] = [lower, upper].map((end) => Math.round(end.word));
        if (read !== reader) {
          const layer = (found[panel] ??= {})[Math.floor(lower.level + 0.05)] ??= { reads: new Set(), "is read by": new Set() };
          if (reader === word) layer.reads.add(`“${names[read]}”`); else layer["is read by"].add(`“${names[reader]}”`);
        }
        return true;
      });
      if (!hits.length) continue;
      const strand = path.cloneNode();
      strand.setAttribute("d", hits.join(""));
      strand.setAttribute("class", "strand");
      path.after(strand);
    }
    const verbs = (told) => Object.entries(told).filter(([, words]) => words.size).map(([verb, words]) => `${verb} ${[...words].join(" ")}`);
    const layers = (panel) => Object.entries(found[panel]).map(([layer, told]) => `layer ${layer}: ${verbs(told).join(" and ")}`).join("; ");
    const panels = Object.keys(found).sort(), side = (n) => panels.length < 2 ? "" : n ? "Right: " : "Left: ";
    say(word < 0 ? "" : `“${names[word]}”. ` + (panels.map((panel, n) => `${side(n)}${layers(panel)}.`).join(" ") || "No line is drawn."));
  }

  const chosen = () => light(Number(select.value));
  select.addEventListener("change", chosen);
  const tick = (event) => event.target.closest?.(axis === "x" ? ".xtick, .x2tick" : ".ytick")?.__data__?.x ?? -1;
  canvas.addEventListener("mouseover", (event) => { if (tick(event) >= 0) light(tick(event)); });
  canvas.addEventListener("mouseout", (event) => { if (tick(event) >= 0) chosen(); });
  canvas.addEventListener("click", (event) => { if (tick(event) >= 0) { select.value = tick(event); chosen(); } });
  canvas.classList.add("words");
  const label = element("label", {}, "Lines of ", select);
  label.now = () => "";
  label.again = () => { if (select.value >= 0) chosen(); };
  return label;
}

const draw = (figure) => figure.drawn ??= drawing(figure);
async function drawing(figure) {
  await plotly();
  const { data, layout, frames } = JSON.parse(figure.querySelector("script").textContent);
  const canvas = figure.querySelector(".plotly-canvas"), words = figure.querySelector(".in-words");
  const controls = element("div", { className: "plotly-controls" }), now = element("p", { className: "sr-only" });
  now.setAttribute("role", "status");
  const strands = element("p", { className: "strands" });
  strands.setAttribute("role", "status");

  const tell = () => {
    const list = told(canvas);
    now.textContent = [...controls.children].map((label) => label.now()).filter(Boolean).join("; ") + (list.length ? `. First: ${list[0]}` : "");
    if (!words?.open) return;
    const more = list.length > MOST ? [element("li", {}, `… and ${list.length - MOST} more`)] : [];
    words.querySelector("ul").replaceChildren(...list.slice(0, MOST).map((line) => element("li", {}, line)), ...more);
  };
  let soon, narrow, moved = false;
  const changed = () => {
    if (moved) rearrange(true);
    for (const label of controls.children) label.again?.();
    scales(canvas);
    clearTimeout(soon);
    soon = setTimeout(tell, 300);
  };
  const apply = (item) => Plotly[item.method](canvas, ...structuredClone(item.args)).then(changed);
  for (const spec of layout.sliders ?? []) { controls.append(slider(spec, apply)); spec.visible = false; }
  for (const spec of layout.updatemenus ?? []) {
    if (spec.type !== "buttons") { controls.append(menu(spec, apply)); spec.visible = false; }
  }
  delete layout.width;  // the column decides; layout.meta.min_width makes a wide figure scroll in its own box
  if (touch) layout.dragmode = false;  // else a thumb that scrolls the page zooms the figure

  const stack = column(data, layout);
  function rearrange(again) {
    const wanted = Boolean(stack) && figure.clientWidth < NARROW;
    canvas.style.minWidth = layout.meta?.min_width && !wanted ? layout.meta.min_width + "px" : "";
    if (!stack || wanted === narrow && !again) return Plotly.relayout(canvas, { autosize: true });
    [narrow, moved] = [wanted, moved || wanted];
    const [traces, look] = structuredClone(wanted ? stack.tall : stack.wide);
    return stack.bars.length ? Plotly.update(canvas, traces, look, stack.bars) : Plotly.relayout(canvas, look);
  }
  canvas.after(controls, strands, now);
  await Plotly.newPlot(canvas, { data, layout, frames, config: { responsive: false, displayModeBar: false } });
  controls.append(...box(canvas, data, changed));
  if (layout.meta?.words) controls.append(pointing(canvas, layout.meta.words, (said) => { strands.textContent = said; }));
  scales(canvas);
  if (words) {
    const save = element("button", { type: "button" }, "Save the picture");
    save.addEventListener("click", () => Plotly.downloadImage(canvas, { format: "svg", filename: document.title }));
    words.append(element("p", {}, "Shown now, as under the pointer:"), element("ul", {}), save);
    words.addEventListener("toggle", tell);
    if (words.open) tell();
  }
  figure.fit = (width) => {
    canvas.style.width = width ? width + "px" : "";
    rearrange(false);
    for (const label of controls.children) label.again?.();
  };
  let seen;
  new ResizeObserver(([{ contentRect: { width } }]) => { if (width && width !== seen && !printing) { seen = width; figure.fit(); } }).observe(figure);
}

// In the dark all of a figure is turned from light to dark by book.css, but for scales of colours that begin dark: their bright end stays.
function scales(canvas) {
  const bars = canvas._fullLayout._infolayer;
  for (const map of canvas.querySelectorAll(".heatmaplayer .hm")) {
    const trace = map.__data__?.[0]?.trace, shared = canvas._fullLayout[trace?.coloraxis];  // plotly.express keeps the scale in the layout
    const first = (shared ?? trace)?.colorscale?.[0]?.[1] ?? "#ffffff";
    const red = first.startsWith("#") ? parseInt(first.slice(1, 3), 16) : Number(first.match(/\d+/)?.[0] ?? 255);
    const sequential = red < 128 && (shared?.cmin ?? trace.zmin) >= 0;
    map.classList.toggle("as-it-is", sequential);
    bars?.selectAll(`.cb${trace?.coloraxis ?? trace?.uid} .cbfills`).classed("as-it-is", sequential);
  }
}

const figures = [...document.querySelectorAll(".plotly-figure")];
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) if (isIntersecting) { near.unobserve(target); draw(target); }
}, { rootMargin: "800px 0px" });
figures.forEach((figure) => near.observe(figure));
if (figures.length) addEventListener("load", plotly);

// What scrolls sideways says so: book.css fades the side on which there is more.
const scrolling = new ResizeObserver((entries) => entries.forEach(({ target }) => edges(target)));
function edges(box) {
  const left = box.scrollLeft > 2, right = box.scrollLeft + box.clientWidth < box.scrollWidth - 2;
  box.dataset.more = `${left ? "left" : ""} ${right ? "right" : ""}`.trim();
}
for (const box of document.querySelectorAll(".plotly-figure, div.numbers, div.cell_output, .pst-scrollable-table-container, div.highlight pre, div.math")) {
  scrolling.observe(box);
  box.addEventListener("scroll", () => edges(box), { passive: true });
}

// On paper: all figures, as wide as the page, all that is folded, and black on white.
let folded = [], theme, printing = false;
const root = document.documentElement.dataset;
addEventListener("beforeprint", async () => {
  folded = [...document.querySelectorAll("details:not([open]):not(.in-words)")];
  folded.forEach((fold) => { fold.open = true; });
  [theme, root.theme, printing] = [root.theme, "light", true];
  await Promise.all(figures.map(draw));  // without a timer on the way if Plotly is there: done before the page is printed
  figures.forEach((figure) => figure.fit(PAPER));
});
addEventListener("afterprint", () => {
  folded.forEach((fold) => { fold.open = false; });
  [root.theme, printing] = [theme, false];
  figures.forEach((figure) => figure.fit?.());
});
})();
