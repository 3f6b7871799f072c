"use strict";
// Live tail: asks every two seconds, and puts what is new on top. It waits while the tab is hidden, or somebody reads
// further down or has an event open, and counts what waits meanwhile. Where rows are missing, a row says how many, or
// that nobody knows.
(() => {
  const EVERY = 2000;
  const MOST_WAITING = 500;
  const MOST_ROWS = 1000;
  let timer = 0;
  let after;
  let waiting = [];
  let problem = "";
  let wasCut = false;
  let looks = 0;

  const button = () => document.querySelector("[data-live]");
  const told = () => document.querySelector("[data-waiting]");
  const table = () => document.getElementById("rows");
  const isOn = () => location.hash === "#live";
  const isReading = () => document.hidden || window.scrollY > 200 || document.querySelector("[data-event], dialog[open]");

  const isGap = (row) => row.matches(".gap");
  const keyOf = (row) => row.querySelector("a.open")?.getAttribute("href");

  /** How many events these rows stand for: NaN if a gap among them has nobody counted. */
  const eventsOf = (rows) => rows.reduce((sum, row) => sum + (isGap(row) ? Number(row.dataset.leftOut ?? NaN) : 1), 0);
  const tell = (row, events) => {
    const told = row.querySelector(".told");
    if (events) {
      row.dataset.leftOut = String(events);
      const many = events === 1 ? "1 event is" : `${events.toLocaleString("en")} events are`;
      told.textContent = `${many} not shown here: more came than Live shows.`;
    } else {
      delete row.dataset.leftOut;
      told.textContent = "Events may be missing here: more came than Live shows.";
    }
    return row;
  };
  const gap = (events) => tell(document.querySelector("template[data-gap]").content.querySelector("tr").cloneNode(true), events);

  /** The rows, with one gap where several would stand side by side. */
  const joined = (rows) => {
    const found = [];
    for (const row of rows) {
      if (isGap(row) && found.length && isGap(found.at(-1))) tell(row, eventsOf([found.pop(), row]));
      found.push(row);
    }
    return found;
  };

  /** Puts the heading of each day above its first row: what is new may be of another day than the rows below it. */
  const nameDays = (body) => {
    const heading = body.querySelector("tr.day");
    body.querySelectorAll("tr.day").forEach((row) => row.remove());
    let day = "";
    for (const row of body.querySelectorAll("tr.row")) {
      if (row.dataset.day === day) continue;
      day = row.dataset.day;
      const above = heading.cloneNode(true);
      above.firstElementChild.textContent = day;
      row.before(above);
    }
  };

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
    for (const row of fresh) row.classList.add("is-new");
    body.prepend(...fresh);
    const last = body.querySelectorAll("tr.row")[MOST_ROWS];
    if (last) {
      const all = [...body.querySelectorAll("tr.row, tr.gap")];
      const surplus = all.slice(all.indexOf(last));
      last.before(gap(eventsOf(surplus)));
      surplus.forEach((row) => row.remove());
    }
    const shown = [...body.querySelectorAll("tr.row, tr.gap")];
    const kept = new Set(joined(shown));
    shown.filter((row) => !kept.has(row)).forEach((row) => row.remove());
    nameDays(body);
    Towpath.colours.paint(body);
    show();
  };

  const look = async () => {
    const live = button();
    if (!live || !isOn()) return;
    // One answer counts, the newest: two of the same would tell of the same gap twice.
    const mine = ++looks;
    try {
      const url = new URL(live.dataset.url, location.href);
      // The page's own moment would leave out what came later.
      url.searchParams.delete("now");
      url.searchParams.set("after", after);
      const answer = await fetch(url, { headers: { "HX-Request": "true" } });
      const text = answer.ok ? await answer.text() : await problemOf(answer);
      // Another look, or another page, has taken this one's place, or it is no longer wanted.
      if (mine !== looks || live !== button() || !isOn()) return;
      problem = answer.ok ? "" : text;
      if (answer.ok) {
        after = answer.headers.get("Tail-After");
        const part = document.createElement("template");
        part.innerHTML = text;
        const known = new Set(waiting.filter((row) => !isGap(row)).map(keyOf));
        const body = table();
        if (body) body.querySelectorAll("tr.row").forEach((row) => known.add(keyOf(row)));
        const arrived = [...part.content.querySelectorAll("tr.row, tr.gap")];
        const gaps = arrived.filter(isGap);
        gaps.forEach((row) => tell(row, eventsOf([row])));
        const fresh = arrived.filter((row) => isGap(row) || !known.has(keyOf(row)));
        // While windows are late, each answer says that it may lack some. Without a row, that is said already.
        if (!wasCut || !fresh.every(isGap)) waiting = fresh.concat(waiting);
        wasCut = gaps.some((row) => !row.dataset.leftOut);
        waiting = joined(waiting);
        if (waiting.length > MOST_WAITING) waiting = [...waiting.slice(0, MOST_WAITING), gap(eventsOf(waiting.slice(MOST_WAITING)))];
      }
    } catch {
      if (mine !== looks) return;
      problem = "This site does not answer. Still trying.";
    }
    // A page that found nothing has no table.
    if (waiting.some((row) => !isGap(row)) && !table()) return location.reload();
    if (waiting.length && table() && !isReading()) putOnTop();
    show();
    clearTimeout(timer);
    timer = setTimeout(look, EVERY);
  };

  const follow = () => { problem = ""; clearTimeout(timer); show(); look(); };
  const start = () => { waiting = []; after = button()?.dataset.after; wasCut = false; follow(); };
  const toggle = () => {
    // A period that is over has nothing to follow.
    const elsewhere = button()?.dataset.liveUrl;
    if (elsewhere) return location.assign(elsewhere);
    history.replaceState(history.state, "", isOn() ? location.pathname + location.search : "#live");
    // It continues where it was: what came before is on the page, or waits.
    follow();
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
