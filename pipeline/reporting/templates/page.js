const figures = JSON.parse(document.getElementById("figures").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const hidden = new Set();
const views = [];
const picker = document.getElementById("fraction");

const objects = ({fields, rows}) =>
  rows.map((row) => Object.fromEntries(fields.map((field, i) => [field, row[i]])));

function filter() {
  const labels = picker ? picker.value : "";
  for (const row of all("tr[data-method]")) {
    if (row.closest("#answer, #runs")) continue; // they speak of all label fractions
    const {labels: of, method} = row.dataset;
    row.hidden = hidden.has(method) || Boolean(labels && of && of !== labels);
  }
}

function hide() {
  filter();
  for (const view of views) view.signal("hidden", [...hidden]).runAsync();
}

function show(root, wanted) {
  for (const figure of all("figure", root)) figure.hidden = !wanted(figure.dataset);
}

async function embed(element) {
  const {spec, tables} = figures[element.dataset.figure];
  const datasets = Object.fromEntries(Object.entries(tables).map(([name, t]) => [name, objects(t)]));
  const byMethod = Object.values(tables).some((t) => t.fields.includes("Method"));
  const values = {hidden: [...hidden], labels: picker ? picker.value || picker.options[0].value : ""};
  const params = spec.params.map((param) => ({...param, value: values[param.name]}));
  const dark = matchMedia("screen and (prefers-color-scheme: dark)").matches;
  const {view} = await vegaEmbed(element, {...spec, params, datasets}, {
    renderer: "svg",
    actions: false,
    tooltip: {theme: dark ? "dark" : "light"},
    // The bar at the top is the legend of all charts.
    config: {background: "transparent", legend: {disable: byMethod}},
  });
  views.push(view);
  if (element.dataset.figure === "confusion") view.addEventListener("click", images);
}

function images(_, item) {
  const of = item && item.datum;
  const section = document.getElementById("predictions");
  if (!of || !of["True class"] || !section) return;
  const key = [of["True class"], of["Predicted class"]].join("\n");
  const match = (f) => [f.true, f.predicted].join("\n") === key;
  // A second click, or one on a cell without images here, brings all of them back.
  const none = section.dataset.cell === key || !all("figure", section).some((f) => match(f.dataset));
  section.dataset.cell = none ? "" : key;
  show(section, none ? () => true : match);
  section.scrollIntoView({behavior: "smooth"});
}

async function draw() {
  filter();
  for (const view of views.splice(0)) view.finalize();
  for (const element of all("[data-figure]")) await embed(element);
}

for (const button of all("[data-hide]")) {
  button.addEventListener("click", () => {
    const name = button.dataset.hide;
    button.setAttribute("aria-pressed", hidden.delete(name) || !hidden.add(name));
    hide();
  });
}
picker?.addEventListener("change", draw); // anew, since the order of rows may be another
for (const select of all("[data-classes]")) {
  select.addEventListener("change", () =>
    show(select.parentElement.nextElementSibling, ({true: label, predicted}) =>
      !select.value || [label, predicted].includes(select.value)));
}
draw();
