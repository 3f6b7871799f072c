"use strict";
// One event: copying, and folding what a bracket holds. The rest of it is links.
(() => {
  // Over plain HTTP there is no clipboard: an element that is selected can be copied all the same.
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      area.className = "unseen";
      (document.querySelector("dialog[open]") || document.body).append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    Towpath.say("Copied");
  };

  const fold = (button) => {
    const line = button.closest(".j-line");
    const depth = Number(line.dataset.depth);
    const opens = button.getAttribute("aria-expanded") === "false";
    button.setAttribute("aria-expanded", String(opens));
    let below = Infinity;
    for (let next = line.nextElementSibling; next && Number(next.dataset.depth) > depth; next = next.nextElementSibling) {
      const itsDepth = Number(next.dataset.depth);
      if (itsDepth <= below) below = Infinity;
      next.hidden = !opens || itsDepth > below;
      // What is folded inside of it stays folded.
      if (opens && below === Infinity && next.querySelector("[data-fold][aria-expanded=false]")) below = itsDepth;
    }
  };

  // --- Beside the table ---------------------------------------------------------------------------------------------

  const drawer = () => document.getElementById("drawer");
  const isOpen = () => Boolean(drawer() && !drawer().hidden);
  let asked = "";

  /** The URL says which event is open, so that it can be sent to somebody. */
  const remember = (path) => {
    const url = new URL(location.href);
    if (path) url.searchParams.set("event", path);
    else url.searchParams.delete("event");
    history.replaceState(history.state, "", url);
  };

  const mark = (path) => {
    for (const row of document.querySelectorAll("#rows .row")) row.classList.toggle("on", Boolean(path) && row.querySelector("a.open").pathname === path);
  };

  const open = async (path) => {
    const place = drawer();
    if (!place || asked === path) return;
    asked = path;
    place.hidden = false;
    place.closest(".cols").classList.add("has-drawer");
    place.setAttribute("aria-busy", "true");
    mark(path);
    remember(path);
    const shown = new URL(location.href);
    shown.searchParams.delete("event");
    await htmx.ajax("GET", path + shown.search, { target: place, swap: "innerHTML", select: "unset" });
    place.removeAttribute("aria-busy");
    place.scrollTop = 0;
    const title = place.querySelector("#event-title");
    if (title) Towpath.say(title.textContent);
  };

  const close = () => {
    const place = drawer();
    if (!isOpen()) return;
    const row = document.querySelector("#rows .row.on a.open");
    place.hidden = true;
    place.replaceChildren();
    place.closest(".cols").classList.remove("has-drawer");
    asked = "";
    remember("");
    row?.focus({ preventScroll: true });
  };

  // The drawer shows the event that the URL names, or nothing.
  document.addEventListener("htmx:afterRequest", ({ detail }) => {
    if (detail.target?.id !== "drawer") return;
    if (!isOpen()) detail.target.replaceChildren();
    // Where one has to sign in, the page is loaded again with its URL.
    else if (!detail.successful && detail.xhr.status !== 401) close();
  });

  // Before htmx, which would make a page of it. With a key held, the browser opens a tab as it always does.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("#rows a.open");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button) return;
    event.preventDefault();
    event.stopPropagation();
    open(link.pathname);
  }, true);

  // While an event is open, the next row opens as one goes to it.
  let timer = 0;
  document.addEventListener("focusin", (event) => {
    const link = event.target.closest("#rows a.open");
    if (!link || !isOpen()) return;
    clearTimeout(timer);
    timer = setTimeout(() => open(link.pathname), 60);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isOpen() && !document.querySelector("dialog[open], details.menu[open]")) close();
  });

  const openWhatTheUrlSays = () => {
    asked = "";
    const path = new URL(location.href).searchParams.get("event");
    if (!path || !document.getElementById("rows") || !URL.canParse(path, location.href)) return;
    // Only an event of this page: a link from somewhere else must not make it load what it likes. The path is looked at
    // as the browser resolves it, since `event/../context/` leads elsewhere. A proxy may also resolve what is encoded.
    const { origin, pathname } = new URL(path, location.href);
    if (origin === location.origin && pathname.startsWith(`${location.pathname}event/`) && !/%(2f|5c)/i.test(pathname)) open(pathname);
  };
  htmx.onLoad((element) => {
    if (element === document.body || element.id === "main") openWhatTheUrlSays();
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-event-close]")) return close();
    const target = event.target.closest("[data-copy], [data-copy-from], [data-copy-link], [data-fold]");
    if (!target) return;
    if (target.hasAttribute("data-fold")) return fold(target);
    event.preventDefault();
    if (target.hasAttribute("data-copy-link")) copy(target.href);
    else if (target.hasAttribute("data-copy-from")) copy(document.getElementById(target.dataset.copyFrom).value);
    else copy(target.dataset.copy);
    const before = target.textContent;
    if (target.dataset.copied) return;
    target.dataset.copied = "yes";
    target.textContent = target.textContent.length > 2 ? "Copied" : "✓";
    setTimeout(() => { target.textContent = before; delete target.dataset.copied; }, 1200);
  });
})();
