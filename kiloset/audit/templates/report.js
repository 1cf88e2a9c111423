"use strict";
(() => {
  const PAPER = 690; // pixels that fit between the margins of A4 and of Letter
  const AXES = ["x", "y"];
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const select = document.getElementById("map-field"), rowText = document.getElementById("map-row");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let printing = false, map = null;

  const isDark = () => dark.matches && !printing;
  const config = (narrow) => {
    const ink = isDark() ? "#e8eaed" : "#1b1f24", line = isDark() ? "#363c43" : "#d5dae0";
    return {
      background: "transparent", view: { stroke: line },
      axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line },
      legend: { labelColor: ink, titleColor: ink, ...(narrow ? { orient: "bottom", columns: 2 } : {}) }, header: { labelColor: ink, titleColor: ink }, title: { color: ink },
    };
  };
  const specOf = (name) => {
    const spec = read("chart-" + name);
    if (name === "map") Object.assign(spec.encoding, read("map-fields")[select.value]);
    return spec;
  };
  const fitted = (spec, width) => {
    if (spec.vconcat) spec.vconcat.forEach((part) => { part.width = width; });
    else spec.width = width;
    return spec;
  };
  const draw = async (place) => {
    const name = place.dataset.chart, room = printing ? PAPER : place.clientWidth, narrow = room < 600;
    const spec = fitted(specOf(name), narrow ? Math.max(160, room - 130) : Math.min(760, room - 280));
    // With its interpreter (ast), Vega does not evaluate text as code, which the page's policy forbids.
    const { view } = await vegaEmbed(place, spec, {
      actions: false, ast: true, renderer: name === "map" ? "canvas" : "svg", config: config(narrow), tooltip: { theme: isDark() ? "dark" : "light" },
    });
    if (name === "map") map = mapOf(place, view, spec);
    place.dataset.drawn = "yes";
  };
  const places = [...document.querySelectorAll("[data-chart]")];
  const drawAll = () => places.forEach(draw);

  // The keys can do everything that the mouse can do on the map: zoom, move, reset, and read the rows one by one.
  function mapOf(place, view, spec) {
    const ring = document.createElement("span");
    ring.className = "ring";
    ring.hidden = true;
    place.append(ring);
    const rows = [...spec.data.values].sort((one, other) => one.x - other.x || other.y - one.y);
    return { view, rows, ring, columns: spec.encoding.tooltip.map((column) => column.field), at: -1 };
  }
  const domain = (axis) => map.view.scale(axis).domain();
  const turn = (to) => {
    const domains = AXES.map((axis) => to(axis, ...domain(axis)));
    AXES.forEach((axis, number) => map.view.signal("zoom_" + axis, domains[number]));
    map.view.run();
    map.ring.hidden = true;
  };
  const zoom = (by) => turn((_, low, high) => [low + (high - low) * (1 - by) / 2, high - (high - low) * (1 - by) / 2]);
  const move = (along, by) => turn((axis, low, high) => [low, high].map((end) => end + (axis === along ? (high - low) * by : 0)));
  const isVisible = (row) => AXES.every((axis) => { const [low, high] = domain(axis); return row[axis] >= low && row[axis] <= high; });
  const step = (by) => {
    const { view, rows, ring, columns } = map;
    for (let tried = 0; tried < rows.length; tried += 1) {
      map.at = map.at < 0 && by < 0 ? rows.length - 1 : (map.at + by + rows.length) % rows.length;
      if (isVisible(rows[map.at])) break;
    }
    const row = rows[map.at], [left, top] = view.origin();
    if (!isVisible(row)) { rowText.textContent = "No row is visible."; return; }
    rowText.textContent = columns.map((name) => row[name]).filter((value) => value !== null && value !== "").join(" · ");
    const canvas = view.container().querySelector("canvas");
    ring.style.left = `${canvas.offsetLeft + left + view.scale("x")(row.x)}px`;
    ring.style.top = `${canvas.offsetTop + top + view.scale("y")(row.y)}px`;
    ring.hidden = false;
  };
  const keys = {
    "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1 / 0.7), 0: () => turn(() => null), n: () => step(1), p: () => step(-1),
    ArrowLeft: () => move("x", -0.15), ArrowRight: () => move("x", 0.15), ArrowUp: () => move("y", 0.15), ArrowDown: () => move("y", -0.15),
  };

  drawAll();
  dark.addEventListener("change", drawAll);
  for (const [name, now] of [["beforeprint", true], ["afterprint", false]]) addEventListener(name, () => { printing = now; drawAll(); });
  const place = document.querySelector("[data-chart=map]");
  if (!place) return;
  select.addEventListener("change", () => draw(place));
  place.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !map || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
})();
