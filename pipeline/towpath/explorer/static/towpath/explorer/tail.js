"use strict";
// Live tail: asks every two seconds, and puts what is new on top. It waits while the tab is hidden, or somebody reads
// further down or has an event open, and counts what waits meanwhile.
(() => {
  const EVERY = 2000;
  const MOST_WAITING = 500;
  const MOST_ROWS = 1000;
  let timer = 0;
  let after = "";
  let waiting = [];
  let isAway = false;

  const button = () => document.querySelector("[data-live]");
  const told = () => document.querySelector("[data-waiting]");
  const table = () => document.getElementById("rows");
  const isOn = () => location.hash === "#live";
  const isReading = () => document.hidden || window.scrollY > 200 || document.querySelector("[data-event], dialog[open]");

  const keyOf = (row) => row.querySelector("a.open")?.getAttribute("href");

  const show = () => {
    const live = button();
    if (live) {
      live.setAttribute("aria-pressed", String(isOn()));
      live.classList.toggle("is-away", isAway);
      live.title = isAway ? "The event store does not answer. Still trying." : "Follow new events (l)";
    }
    const place = told();
    if (!place) return;
    place.hidden = !waiting.length;
    const many = waiting.length >= MOST_WAITING ? `${MOST_WAITING} or more` : waiting.length;
    place.textContent = `${many} new event${waiting.length === 1 ? "" : "s"}`;
  };

  const putOnTop = () => {
    const body = table();
    if (!body) return;
    const known = new Set([...body.querySelectorAll("tr.row")].map(keyOf));
    const fresh = waiting.filter((row) => !known.has(keyOf(row)));
    waiting = [];
    const day = body.querySelector("tr.day");
    const first = day && day === body.firstElementChild ? day.nextElementSibling : body.firstElementChild;
    for (const row of fresh) {
      row.classList.add("is-new");
      body.insertBefore(row, first);
    }
    [...body.querySelectorAll("tr.row")].slice(MOST_ROWS).forEach((row) => row.remove());
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
      if (after) url.searchParams.set("after", after);
      const answer = await fetch(url, { headers: { "HX-Request": "true" } });
      isAway = !answer.ok;
      if (answer.ok) {
        after = answer.headers.get("Tail-After");
        const part = document.createElement("template");
        part.innerHTML = await answer.text();
        const known = new Set(waiting.map(keyOf));
        const body = table();
        if (body) body.querySelectorAll("tr.row").forEach((row) => known.add(keyOf(row)));
        waiting = [...part.content.querySelectorAll("tr.row")].filter((row) => !known.has(keyOf(row))).concat(waiting);
        waiting.length = Math.min(waiting.length, MOST_WAITING);
      }
    } catch {
      isAway = true;
    }
    // A page that found nothing has no table.
    if (waiting.length && !table()) return location.reload();
    if (waiting.length && !isReading()) putOnTop();
    show();
    clearTimeout(timer);
    timer = setTimeout(look, EVERY);
  };

  const start = () => { waiting = []; after = ""; clearTimeout(timer); show(); look(); };
  const toggle = () => {
    history.replaceState(history.state, "", isOn() ? location.pathname + location.search : "#live");
    start();
  };

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-live]")) toggle();
    else if (event.target.closest("[data-waiting]")) { window.scrollTo({ top: 0 }); putOnTop(); }
  });
  Towpath.key("l", toggle);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && isOn()) look(); });
  htmx.onLoad((element) => { if (element === document.body || element.id === "main") start(); });
})();
