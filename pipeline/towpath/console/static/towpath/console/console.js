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
  // By this browser's own clock: the server's may be another.
  let readAt = 0;

  function taken() {
    const seen = live.querySelector(".seen");
    trouble = seen ? seen.dataset.trouble : "";
    readAt = Date.now() - (seen ? Number(seen.dataset.age) * 1000 : 0);
    for (const [id, isHidden] of [["resume-all", !seen?.dataset.paused], ["pause-all", Boolean(seen?.dataset.paused)]]) {
      const button = document.getElementById(id);
      if (button) button.hidden = isHidden;
    }
    const verdict = live.querySelector(".verdict");
    // Only a change is worth a word to a screen reader.
    if (level && level !== verdict.dataset.level) Towpath.say(verdict.querySelector(".headline").textContent);
    level = verdict.dataset.level;
    document.title = `${{ ok: "", warn: "● ", bad: "▲ " }[level] ?? ""}Pipeline · Towpath`;
  }

  function tell() {
    const seen = live.querySelector(".seen");
    const seconds = Math.round((Date.now() - readAt) / 1000);
    const isOld = Boolean(seen) && (seconds > oldAfter || Boolean(trouble));
    if (seen) asof.textContent = `as of ${seen.dataset.clock} UTC · every ${every / 1000} s`;
    const reason = isCopying() ? "The page waits while text is selected." : "The web process does not answer.";
    document.getElementById("old-text").textContent = `They are from ${seconds} s ago. ${trouble || reason}`;
    old.hidden = !isOld;
    live.classList.toggle("is-old", isOld);
  }

  /** A person who copies a command has it selected. */
  function isCopying() {
    const selected = getSelection();
    return Boolean(selected) && !selected.isCollapsed && live.contains(selected.anchorNode);
  }

  async function ask() {
    if (isAsking || document.hidden) return;
    isAsking = true;
    try {
      const answer = await fetch(live.dataset.url, { headers: { "X-Part": "live" }, cache: "no-store", signal: AbortSignal.timeout(20000) });
      if (answer.status === 401 || answer.status === 403 || answer.redirected) return location.reload();
      if (answer.ok) show(await answer.text());
    } catch {
      // What is there stays, and grows old: `tell` says so.
    } finally {
      isAsking = false;
      tell();
    }
  }

  /** The new part in the place of the old one: what is open stays open, what has the focus keeps it. */
  function show(html) {
    const open = Towpath.all("details[open][data-keep]", live).map((one) => one.dataset.keep);
    const focused = document.activeElement && live.contains(document.activeElement) ? document.activeElement : null;
    const keep = focused?.closest("details")?.dataset.keep;
    const label = focused?.getAttribute("aria-label");
    if (isCopying()) return;
    live.replaceChildren(document.createRange().createContextualFragment(html));
    for (const name of open) live.querySelector(`[data-keep="${name}"]`)?.setAttribute("open", "");
    if (focused) {
      const again = focused.id ? document.getElementById(focused.id) : keep ? live.querySelector(`[data-keep="${keep}"] summary`) : live.querySelector(`[aria-label="${CSS.escape(label ?? "")}"]`);
      again?.focus({ preventScroll: true });
    }
    taken();
  }

  Towpath.key("r", () => void ask());
  document.addEventListener("visibilitychange", () => void ask());
  setInterval(() => void ask(), every);
  setInterval(tell, 1000);
  taken();
  tell();
})();
