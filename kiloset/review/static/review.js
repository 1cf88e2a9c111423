// The keys of the review page. A button or link of the page does the same; htmx sends requests and swaps the page.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const run = document.body.dataset.run;
  const store = `kiloset.undo.${run}`;
  let armed = false; // the page has warned of an unsaved edit, so the next key may discard it

  const say = (text) => { byId("status").textContent = text; };
  const alarm = (text) => { byId("alarm").textContent = text; };
  const undoable = () => JSON.parse(sessionStorage.getItem(store) || "[]");
  const remember = (decisions) => sessionStorage.setItem(store, JSON.stringify(decisions.slice(-500)));
  const isField = (element) => element.matches("input, textarea, select") || element.isContentEditable;
  const wasTyped = () => byId("edit")?.dataset.typed !== undefined; // and could not be saved
  const fields = () => [...document.querySelectorAll("#edit textarea")];
  const isDirty = () => wasTyped() || fields().some((field) => field.value !== field.defaultValue);

  function toRow() { byId("row")?.focus({ preventScroll: true }); }

  function show(name, on) {
    const panel = byId(name);
    panel.hidden = !on;
    document.querySelector(`[data-opens="${name}"]`).setAttribute("aria-expanded", String(on));
    if (name === "edit") byId("read").querySelector(".texts").hidden = on;
    if (!on) return;
    say("");
    (panel.querySelector("[data-first]") || panel.querySelector("select, input, button")).focus();
  }

  function closeAll() {
    for (const opener of document.querySelectorAll("[data-opens]")) if (!byId(opener.dataset.opens).hidden) show(opener.dataset.opens, false);
    toRow();
  }

  function toggle(name) {
    const opens = byId(name).hidden;
    closeAll();
    if (opens) show(name, true);
  }

  function undo() {
    const last = undoable().at(-1);
    if (!last) { say("This window has no decision to undo."); return; }
    const [id, version] = last;
    const query = new URLSearchParams(location.search);
    query.delete("row");
    htmx.ajax("POST", `/decide?${query}`, { source: "#page", target: "#page", swap: "innerHTML show:window:top", values: { id, version, verdict: "undo" } });
  }

  function act(element) {
    if (element.dataset.opens) toggle(element.dataset.opens);
    else if ("undo" in element.dataset) undo();
    else if ("help" in element.dataset) byId("help").showModal();
    else if ("closes" in element.dataset) closeAll();
    else return false;
    return true;
  }

  document.addEventListener("click", (event) => {
    const element = event.target.closest("[data-opens], [data-undo], [data-help], [data-closes]");
    if (element) act(element);
  });

  document.addEventListener("keydown", (event) => {
    if (byId("help").open) return;
    const within = event.target;
    if (isField(within)) {
      if (event.key === "Escape") closeAll();
      else if (event.key === "Enter" && (within.matches("select") || (within.matches("textarea") && (event.ctrlKey || event.metaKey)))) {
        event.preventDefault();
        within.form.requestSubmit();
      }
      return;
    }
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") { closeAll(); return; }
    const key = { ArrowRight: "j", ArrowLeft: "k" }[event.key] || event.key;
    const focused = document.querySelector(`[data-focus="${CSS.escape(key)}"]`);
    if (focused) {
      const panel = focused.closest("section[hidden]");
      if (panel) return;
      event.preventDefault();
      focused.focus();
      return;
    }
    const element = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (!element || (event.repeat && key !== "j" && key !== "k")) return;
    event.preventDefault();
    element.click();
  });

  document.addEventListener("input", () => { armed = false; });
  document.addEventListener("htmx:confirm", (event) => {
    if (event.target.closest("#edit") || !isDirty() || armed) return;
    event.preventDefault();
    armed = true;
    say("Your edit is not saved: e continues it, Ctrl+Enter saves it. Press the same key again to discard it.");
  });
  window.addEventListener("beforeunload", (event) => { if (isDirty()) event.preventDefault(); });

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "page") return;
    armed = false;
    if (wasTyped()) show("edit", true);
    else toRow();
  });
  document.addEventListener("decided", (event) => {
    const { id, version, undo: taken } = event.detail;
    const decisions = undoable();
    const at = decisions.findLastIndex(([other]) => other === id);
    if (taken && at >= 0) decisions.splice(at, 1);
    for (const decision of decisions) if (decision[0] === id) decision[1] = version;
    if (!taken) decisions.push([id, version]);
    remember(decisions);
  });

  const lost = "NOT saved: the review server cannot be reached. Your edit is still on this page. Start `kiloset review` again, then press the key again.";
  for (const name of ["htmx:sendError", "htmx:timeout"]) document.addEventListener(name, () => alarm(lost));
  document.addEventListener("htmx:responseError", (event) => {
    const { status, responseText } = event.detail.xhr;
    alarm(`NOT saved: ${responseText.slice(0, 300) || `the server answered with status ${status}`}`);
  });
})();
