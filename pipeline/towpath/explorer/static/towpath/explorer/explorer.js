/* The search page: what is set up when it is shown, and its keys. */
"use strict";
(() => {
  const main = () => document.getElementById("main");
  const rows = () => Towpath.all("#rows .row");
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;

  function setUp(shown) {
    const form = shown.querySelector("form.search");
    if (form) Towpath.searchbar.set(form);
    Towpath.histogram.show(shown.querySelector("#histogram"));
    Towpath.colours.paint(shown);
    const zones = shown.querySelector("#tz");
    if (zones) {
      if (own && ![...zones.options].some((option) => option.value === own)) zones.add(new Option(own, own), 1);
      zones.addEventListener("change", () => zones.form.requestSubmit());
    }
  }

  htmx.onLoad((element) => {
    if (element === document.body || element.id === "main") {
      if (main()) setUp(main());
      // What had the focus is gone. Without it, the next Tab would begin at the top of the page.
      if (element.id === "main" && document.activeElement === document.body) element.focus({ preventScroll: true });
      return;
    }
    Towpath.colours.paint(element.parentElement || element);
    if (element.closest("#facets")) {
      const facets = document.getElementById("facets");
      facets.removeAttribute("aria-busy");
      facets.classList.add("is-there");
      const paths = document.getElementById("paths");
      if (paths) paths.replaceChildren(...Towpath.all("#facets [data-field^='context.']").map((one) => new Option(one.dataset.field, one.dataset.field)));
    }
  });

  // What says nothing does not stand in the URL.
  document.addEventListener("htmx:configRequest", (event) => {
    const { parameters, elt } = event.detail;
    if (!elt.matches("form")) return;
    for (const name of Object.keys(parameters)) if (!parameters[name]) delete parameters[name];
    if (parameters.tz === "UTC") delete parameters.tz;
  });

  /** The row that has the focus, or that was last looked at. */
  function here() {
    return document.activeElement?.closest?.("#rows .row") || document.querySelector("#rows .row.on");
  }

  function step(by) {
    const all = rows();
    const at = all.indexOf(here());
    const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by];
    if (!next) {
      if (by > 0) document.querySelector("#rows [data-more]")?.click();
      return;
    }
    const link = next.querySelector("a.open");
    link.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  }

  function menu(key) {
    const found = document.querySelector(`#main details.menu[data-key="${key}"]`);
    if (found) Towpath.open(found);
  }

  Towpath.key("/", () => {
    const input = document.getElementById("q");
    input?.focus();
    input?.select();
  });
  Towpath.key("j", () => step(1));
  Towpath.key("k", () => step(-1));
  Towpath.key("t", () => menu("t"));
  Towpath.key("c", () => menu("c"));
  Towpath.key("e", () => menu("e"));
  Towpath.key("v", () => menu("v"));
  Towpath.key("x", () => document.querySelector(".search .clear")?.click());
  Towpath.key("-", () => document.querySelector(".legend .told a")?.click());
  Towpath.key("z", () => {
    const zones = document.getElementById("tz");
    if (!zones) return;
    const other = zones.value === "UTC" ? [...zones.options].find((option) => option.value !== "UTC") : zones.options[0];
    if (!other) return;
    zones.value = other.value;
    zones.form.requestSubmit();
  });
  Towpath.key("Enter", () => {
    const row = here();
    if (!row || document.activeElement.matches("a, button, summary")) return false;
    row.querySelector("a.open").click();
    return true;
  });
  Towpath.key("Escape", () => {
    document.getElementById("filters")?.classList.remove("is-open");
    document.activeElement?.blur();
  });

  // CloudEvents are a kind of NDJSON, and of no other format.
  document.addEventListener("change", (event) => {
    const form = event.target.closest(".export form");
    if (!form) return;
    const { format, as } = form.elements;
    if (event.target === as && as.checked) format.value = "ndjson";
    else if (format.value !== "ndjson") as.checked = false;
  });
  // The histogram has counted what the file will have. After the download begins, the menu is in the way.
  document.addEventListener("toggle", (event) => {
    const total = document.querySelector("[data-total]")?.textContent.trim();
    if (event.target.matches?.(".export[open]") && /\d/.test(total)) event.target.querySelector("[data-export-total]").textContent = `${total} events`;
  }, true);
  document.addEventListener("submit", (event) => {
    const menu = event.target.closest(".export");
    if (menu) menu.open = false;
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-filters]")) document.getElementById("filters").classList.toggle("is-open");
    // A click anywhere in a row opens it, unless text was selected.
    const row = event.target.closest("#rows .row");
    if (row && !event.target.closest("a") && !String(getSelection())) row.querySelector("a.open").click();
  });
})();
