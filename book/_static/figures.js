// Draws the Plotly figures of a page, and replaces their sliders and menus by native ones:
// Plotly's own cannot be reached with the keyboard, are unknown to screen readers and too small for a thumb.
"use strict";

const touch = matchMedia("(pointer: coarse)").matches;

function labelled(text, control) {
  const label = document.createElement("label");
  label.append(text + " ", control);
  return label;
}

// Plotly's labels are HTML ("&lt;s&gt;"), those of native controls are words. A parsed document loads nothing and runs nothing.
const unescaped = (label) => new DOMParser().parseFromString(label, "text/html").body.textContent;

// One native control: `items` are Plotly's steps or buttons, `apply` shows the item with a given index.
function slider(spec, apply) {
  const input = document.createElement("input");
  const shown = document.createElement("output");
  input.type = "range";
  input.max = spec.steps.length - 1;
  input.value = spec.active ?? 0;
  const name = () => {
    shown.textContent = unescaped(spec.steps[input.value].label);
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => { name(); apply(spec.steps[input.value]); });
  name();
  const label = labelled(spec.currentvalue?.prefix ?? "Step", input);
  label.append(" ", shown);
  return label;
}

function menu(spec, apply) {
  const select = document.createElement("select");
  spec.buttons.forEach((button, i) => select.add(new Option(unescaped(button.label), i, i === (spec.active ?? 0), i === (spec.active ?? 0))));
  select.addEventListener("change", () => apply(spec.buttons[select.value]));
  return labelled(spec.name ?? "Show", select);
}

function draw(figure) {
  const { data, layout, frames } = JSON.parse(figure.querySelector("script").textContent);
  const canvas = figure.querySelector(".plotly-canvas");
  const apply = (item) => Plotly[item.method](canvas, ...item.args);
  const controls = document.createElement("div");
  controls.className = "plotly-controls";
  for (const spec of layout.sliders ?? []) { controls.append(slider(spec, apply)); spec.visible = false; }
  for (const spec of layout.updatemenus ?? []) {
    if (spec.type !== "buttons") { controls.append(menu(spec, apply)); spec.visible = false; }
  }
  delete layout.width;  // the column decides; layout.meta.min_width makes a wide figure scroll in its own box
  if (layout.meta?.min_width) canvas.style.minWidth = layout.meta.min_width + "px";
  if (touch) layout.dragmode = false;  // else a thumb that scrolls the page zooms the figure
  const config = { responsive: true, displaylogo: false, displayModeBar: touch ? false : "hover", modeBarButtonsToRemove: ["sendChartToCloud"] };
  if (controls.children.length) figure.append(controls);
  return Plotly.newPlot(canvas, { data, layout, frames, config });
}

document.querySelectorAll(".plotly-figure").forEach(draw);
