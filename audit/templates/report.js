"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = (narrow) => {
    const ink = dark.matches ? "#e8eaed" : "#1b1f24", line = dark.matches ? "#363c43" : "#d5dae0";
    return {
      background: "transparent", view: { stroke: line },
      axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line },
      legend: { labelColor: ink, titleColor: ink, ...(narrow ? { orient: "bottom", columns: 2 } : {}) }, header: { labelColor: ink, titleColor: ink }, title: { color: ink },
    };
  };
  const select = document.getElementById("map-field");
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
    const name = place.dataset.chart, room = place.clientWidth, narrow = room < 600;
    const spec = fitted(specOf(name), narrow ? Math.max(160, room - 130) : Math.min(760, room - 280));
    // The interpreter (ast) makes no code from text, so the page's policy can forbid that.
    await vegaEmbed(place, spec, {
      actions: false, ast: true, renderer: name === "map" ? "canvas" : "svg", config: config(narrow), tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    place.dataset.drawn = "yes";
  };
  const places = [...document.querySelectorAll("[data-chart]")];
  const drawAll = () => places.forEach(draw);
  drawAll();
  dark.addEventListener("change", drawAll);
  if (select) select.addEventListener("change", () => draw(document.querySelector("[data-chart=map]")));
})();
