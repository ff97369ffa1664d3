const figures = JSON.parse(document.getElementById("figures").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const hidden = new Set();
const views = [];
const picker = document.getElementById("fraction");

const objects = ({fields, rows}) =>
  rows.map((row) => Object.fromEntries(fields.map((field, i) => [field, row[i]])));

function filter() {
  const labels = picker ? picker.value : "";
  for (const row of all("tr[data-method], tr[data-labels]")) {
    const {labels: of = "", method = ""} = row.dataset;
    row.hidden = hidden.has(method) || Boolean(labels && of && of !== labels && !row.closest("#answer"));
  }
}

function update() {
  filter();
  const labels = picker ? picker.value || picker.options[0].value : "";
  for (const view of views) view.signal("hidden", [...hidden]).signal("labels", labels).runAsync();
}

function show(root, wanted) {
  for (const figure of all("figure", root)) figure.hidden = !wanted(figure.dataset);
}

async function embed(element) {
  const {spec, tables} = figures[element.dataset.figure];
  const datasets = Object.fromEntries(Object.entries(tables).map(([name, t]) => [name, objects(t)]));
  const config = {background: "transparent", legend: {disable: false}};
  const byMethod = Object.values(tables).some((t) => t.fields.includes("Method"));
  if (byMethod) config.legend.disable = true; // the bar at the top is the legend of all charts
  const theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const options = {renderer: "svg", actions: false, config, tooltip: {theme}};
  const {view} = await vegaEmbed(element, {...spec, datasets}, options);
  element.setAttribute("role", "img");
  views.push(view);
  const labels = picker ? picker.value : "";
  await view.signal("hidden", [...hidden]).signal("labels", labels).runAsync();
  if (element.dataset.figure === "confusion") {
    view.addEventListener("click", (_, item) => {
      const datum = item && item.datum;
      if (!datum || !datum["True class"]) return;
      show(document.getElementById("predictions"), (of) =>
        of.true === datum["True class"] && of.predicted === datum["Predicted class"]);
      document.getElementById("predictions")?.scrollIntoView({behavior: "smooth"});
    });
  }
}

for (const button of all("[data-hide]")) {
  button.addEventListener("click", () => {
    const name = button.dataset.hide;
    const now = hidden.delete(name) || !hidden.add(name);
    button.setAttribute("aria-pressed", now);
    update();
  });
}
picker?.addEventListener("change", update);
for (const select of all("[data-classes]")) {
  select.addEventListener("change", () =>
    show(select.parentElement.nextElementSibling, (of) =>
      !select.value || [of.true, of.predicted].includes(select.value)));
}
filter();
(async () => { for (const element of all("[data-figure]")) await embed(element); })();
