"use strict";
// Live tail: asks every two seconds, and puts what is new on top. It waits while the tab is hidden, or somebody reads
// further down or has an event open, and counts what waits meanwhile. Where rows may be missing, a row says so.
(() => {
  const EVERY = 2000;
  const MOST_WAITING = 500;
  const MOST_ROWS = 1000;
  let timer = 0;
  let after;
  let waiting = [];
  let problem = "";
  let wasCut = false;

  const button = () => document.querySelector("[data-live]");
  const told = () => document.querySelector("[data-waiting]");
  const table = () => document.getElementById("rows");
  const isOn = () => location.hash === "#live";
  const isReading = () => document.hidden || window.scrollY > 200 || document.querySelector("[data-event], dialog[open]");

  const isGap = (row) => row.matches(".gap");
  const gap = () => document.querySelector("template[data-gap]").content.querySelector("tr").cloneNode(true);
  const keyOf = (row) => row.querySelector("a.open")?.getAttribute("href");

  const show = () => {
    const live = button();
    if (live) {
      live.setAttribute("aria-pressed", String(isOn()));
      live.classList.toggle("is-away", Boolean(problem));
    }
    const shown = document.querySelector("[data-live-problem]");
    if (shown) {
      shown.hidden = !problem;
      if (shown.textContent !== problem) shown.textContent = problem;
    }
    const place = told();
    if (!place) return;
    place.hidden = !waiting.length;
    const events = waiting.filter((row) => !isGap(row)).length;
    const isAll = events === waiting.length;
    place.textContent = `${events}${isAll ? "" : " or more"} new event${isAll && events === 1 ? "" : "s"}`;
  };

  /** What an answer says that has no rows. */
  const problemOf = async (answer) => {
    if (answer.status === 401) return "You are signed out. Load the page again to sign in.";
    if (answer.status === 403) return "You may no longer read events.";
    const isText = answer.headers.get("Content-Type")?.startsWith("text/plain");
    return isText ? answer.text() : "The server has an error. Still trying.";
  };

  const putOnTop = () => {
    const body = table();
    if (!body) return location.reload();
    const known = new Set([...body.querySelectorAll("tr.row")].map(keyOf));
    const fresh = waiting.filter((row) => isGap(row) || !known.has(keyOf(row)));
    waiting = [];
    const day = body.querySelector("tr.day");
    const first = day && day === body.firstElementChild ? day.nextElementSibling : body.firstElementChild;
    for (const row of fresh) {
      row.classList.add("is-new");
      body.insertBefore(row, first);
    }
    const surplus = [...body.querySelectorAll("tr.row")].slice(MOST_ROWS);
    if (surplus.length) surplus[0].before(gap());
    surplus.forEach((row) => row.remove());
    // One is enough where nothing is between two.
    body.querySelectorAll("tr.gap + tr.gap").forEach((row) => row.remove());
    Towpath.colours.paint(body);
    show();
  };

  const look = async () => {
    const live = button();
    if (!live || !isOn()) return;
    try {
      const url = new URL(live.dataset.url, location.href);
      // The page's own moment would leave out what came later.
      url.searchParams.delete("now");
      url.searchParams.set("after", after);
      const answer = await fetch(url, { headers: { "HX-Request": "true" } });
      // Another page has taken this one's place.
      if (live !== button()) return;
      problem = answer.ok ? "" : await problemOf(answer);
      if (answer.ok) {
        after = answer.headers.get("Tail-After");
        const part = document.createElement("template");
        part.innerHTML = await answer.text();
        const known = new Set(waiting.filter((row) => !isGap(row)).map(keyOf));
        const body = table();
        if (body) body.querySelectorAll("tr.row").forEach((row) => known.add(keyOf(row)));
        const arrived = [...part.content.querySelectorAll("tr.row, tr.gap")];
        const fresh = arrived.filter((row) => isGap(row) || !known.has(keyOf(row)));
        // Answers overlap. One that brings nothing new lacks what the one before it lacked, which is said already.
        if (!wasCut || !fresh.every(isGap)) waiting = fresh.concat(waiting);
        wasCut = arrived.some(isGap);
        waiting = waiting.filter((row, at) => !at || !isGap(row) || !isGap(waiting[at - 1]));
        if (waiting.length > MOST_WAITING) waiting = [...waiting.slice(0, MOST_WAITING), gap()];
      }
    } catch {
      problem = "This site does not answer. Still trying.";
    }
    // A page that found nothing has no table.
    if (waiting.some((row) => !isGap(row)) && !table()) return location.reload();
    if (waiting.length && table() && !isReading()) putOnTop();
    show();
    clearTimeout(timer);
    timer = setTimeout(look, EVERY);
  };

  const start = () => { waiting = []; after = button()?.dataset.after; problem = ""; wasCut = false; clearTimeout(timer); show(); look(); };
  const toggle = () => {
    history.replaceState(history.state, "", isOn() ? location.pathname + location.search : "#live");
    start();
  };

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-live]")) toggle();
    else if (event.target.closest("[data-reload]")) location.reload();
    else if (event.target.closest("[data-waiting]")) { window.scrollTo({ top: 0 }); putOnTop(); }
  });
  Towpath.key("l", toggle);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && isOn()) look(); });
  htmx.onLoad((element) => { if (element === document.body || element.id === "main") start(); });
})();
