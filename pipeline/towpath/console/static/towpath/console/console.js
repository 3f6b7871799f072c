/* Keeps the page true: asks again every few seconds while somebody looks, and says when its numbers are old. */
"use strict";
(() => {
  const live = document.getElementById("live");
  const every = Number(live.dataset.every) * 1000;
  const oldAfter = Number(live.dataset.old);
  const asof = document.getElementById("asof");
  const old = document.getElementById("old");
  let level = "";
  let isAsking = false;
  let trouble = "";
  // Why the last answer could not be shown; empty if it was, or nothing has been asked.
  let failure = "";
  let isPressed = false;
  // By this browser's own clock: the server's may be another.
  let readAt = 0;

  function taken() {
    const seen = live.querySelector(".seen");
    trouble = seen ? seen.dataset.trouble : "";
    readAt = Date.now() - (seen ? Number(seen.dataset.age) * 1000 : 0);
    const focused = document.activeElement;
    for (const [id, isHidden] of [["resume-all", !seen?.dataset.paused], ["pause-all", Boolean(seen?.dataset.paused)]]) {
      const button = document.getElementById(id);
      if (button) button.hidden = isHidden;
    }
    if (focused?.hidden) document.querySelector("#resume-all:not([hidden]), #pause-all:not([hidden])")?.focus();
    const verdict = live.querySelector(".verdict");
    // Only a change is worth a word to a screen reader.
    if (level && level !== verdict.dataset.level) Towpath.say(verdict.querySelector(".headline").textContent);
    level = verdict.dataset.level;
    document.title = `${{ ok: "", warn: "● ", bad: "▲ " }[level] ?? ""}Pipeline · Towpath`;
  }

  function tell() {
    const seen = live.querySelector(".seen");
    const seconds = Math.round((Date.now() - readAt) / 1000);
    const isOld = seconds > oldAfter || Boolean(trouble);
    asof.textContent = seen ? `as of ${seen.dataset.clock} UTC · every ${every / 1000} s` : `every ${every / 1000} s`;
    const ago = seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
    const reason = isCopying() ? "The page waits while text is selected." : failure || "It has not asked since then.";
    document.getElementById("old-text").textContent = `It is from ${ago} ago. ${trouble || reason}`;
    old.hidden = !isOld;
    live.classList.toggle("is-old", isOld);
  }

  /** A person who copies a command has it selected. */
  function isCopying() {
    const selected = getSelection();
    return Boolean(selected) && !selected.isCollapsed && selected.rangeCount > 0 && selected.getRangeAt(0).intersectsNode(live);
  }

  async function ask() {
    if (isAsking || document.hidden) return;
    isAsking = true;
    try {
      const answer = await fetch(live.dataset.url, { headers: { "X-Part": "live" }, cache: "no-store", signal: AbortSignal.timeout(20000) });
      if (answer.status === 401 || answer.status === 403 || answer.redirected) return location.reload();
      failure = answer.ok ? "" : `The web process answers with an error (${answer.status}). PostgreSQL may be down: pipeline doctor says what is.`;
      if (answer.ok) show(await answer.text());
    } catch {
      // What is there stays, and grows old: `tell` says so.
      failure = "The web process does not answer.";
    } finally {
      isAsking = false;
      tell();
    }
  }

  /** Where the focus of an element belongs in the new part: on the same element, or else on what is around it. */
  function placesOf(one) {
    const named = (name, value) => (value ? `[${name}="${CSS.escape(value)}"]` : "");
    const book = named("data-keep", one.closest("details[data-keep]")?.dataset.keep);
    const href = named("href", one.getAttribute("href"));
    return [
      named("id", one.id),
      named("aria-label", one.getAttribute("aria-label")),
      href && `${book} a${href}`,
      book && `${book} summary`,
      named("aria-label", one.closest(".scroll")?.getAttribute("aria-label")),
    ].filter(Boolean);
  }

  /** The new part in the place of the old one: what is open stays open, what is scrolled stays so, what has the focus
   * keeps it. */
  function show(html) {
    // A click on an element that is replaced between press and release is lost.
    if (isCopying() || isPressed) return;
    const part = document.createRange().createContextualFragment(html);
    if (!part.querySelector(".verdict")) throw new Error("This is not the page's part.");
    const open = Towpath.all("details[open][data-keep]", live).map((one) => one.dataset.keep);
    const scrolled = Towpath.all(".scroll", live).map((one) => [one.getAttribute("aria-label"), one.scrollLeft]);
    const focused = document.activeElement && live.contains(document.activeElement) ? document.activeElement : null;
    const places = focused ? placesOf(focused) : [];
    live.replaceChildren(part);
    for (const name of open) live.querySelector(`[data-keep="${name}"]`)?.setAttribute("open", "");
    for (const [label, left] of scrolled) {
      const region = live.querySelector(`.scroll[aria-label="${CSS.escape(label)}"]`);
      if (region) region.scrollLeft = left;
    }
    if (focused) {
      const again = places.map((place) => live.querySelector(place)).find(Boolean);
      (again ?? document.getElementById("main")).focus({ preventScroll: true });
    }
    taken();
  }

  live.addEventListener("pointerdown", (event) => (isPressed = event.button === 0));
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => setTimeout(() => (isPressed = false)));
  Towpath.key("r", () => void ask());
  document.addEventListener("visibilitychange", () => void ask());
  setInterval(() => void ask(), every);
  setInterval(tell, 1000);
  taken();
  tell();
})();
