/* What every page has: theme, menus, dialogs and keys. Pages add keys with `Towpath.key(name, action)`. */
"use strict";
const Towpath = (() => {
  const keys = new Map();
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  /** What a script remembers in this browser; a browser that stores nothing forgets it. */
  const memory = {
    read(name) {
      try {
        return localStorage.getItem(`towpath.${name}`);
      } catch {
        return null;
      }
    },
    write(name, value) {
      try {
        if (value === null) localStorage.removeItem(`towpath.${name}`);
        else localStorage.setItem(`towpath.${name}`, value);
      } catch {
        // It is a convenience only.
      }
    },
  };

  function choose(theme) {
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    memory.write("theme", theme === "system" ? null : theme);
    document.dispatchEvent(new CustomEvent("towpath:theme"));
  }

  /** Says it to everybody, until the next click. */
  function complain(text) {
    const place = document.getElementById("complaint");
    place.textContent = text;
    place.hidden = false;
    document.addEventListener("pointerdown", () => (place.hidden = true), { once: true });
  }

  /** Says it to a screen reader. */
  function say(text) {
    document.getElementById("said").textContent = text;
  }

  const isTyping = (target) => target.closest?.("input:not([type=radio]):not([type=checkbox]), textarea, select, [contenteditable]");
  const openMenus = () => all("details.menu[open]");

  function closeMenus(except = null) {
    for (const menu of openMenus()) if (menu !== except) menu.open = false;
  }

  document.addEventListener("toggle", (event) => {
    const menu = event.target;
    if (!menu.matches?.("details.menu") || !menu.open) return;
    closeMenus(menu);
    const first = menu.querySelector("[autofocus], .sheet a, .sheet input, .sheet button");
    if (menu.dataset.byKey) first?.focus();
    delete menu.dataset.byKey;
  }, true);

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-opens]");
    if (opener) {
      closeMenus();
      document.getElementById(opener.dataset.opens).showModal();
    } else if (!event.target.closest("details.menu")) closeMenus();
    // A click beside a dialog closes it.
    if (event.target.matches("dialog")) event.target.close();
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.key === "Escape" && openMenus().length) {
      const [menu] = openMenus();
      closeMenus();
      menu.querySelector("summary").focus();
      event.preventDefault();
      return;
    }
    if (event.key !== "Escape" && isTyping(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    const action = keys.get(event.key);
    if (action && action(event) !== false) event.preventDefault();
  });

  keys.set("?", () => document.getElementById("help").showModal());

  for (const input of all("#theme input")) {
    input.checked = input.value === (root.dataset.theme || "system");
    input.addEventListener("change", () => choose(input.value));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new CustomEvent("towpath:theme")));

  // A line at the top while something is loaded, and only if it takes longer than an eye needs.
  let underWay = 0;
  const show = (change) => {
    underWay = Math.max(0, underWay + change);
    root.classList.toggle("is-loading", underWay > 0);
  };
  document.addEventListener("htmx:beforeRequest", () => show(1));
  document.addEventListener("htmx:afterRequest", () => show(-1));
  document.addEventListener("htmx:sendError", () => complain("The server does not answer. Try again in a moment."));
  document.addEventListener("htmx:timeout", () => complain("The server takes too long. Try again in a moment."));
  // Only HTML is put into a page. The stored context of an event, for one, may look like HTML and is none of ours.
  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    if (!detail.xhr.getResponseHeader("Content-Type")?.startsWith("text/html")) detail.shouldSwap = false;
  });
  // The session has ended: the page itself leads to the place where one signs in.
  document.addEventListener("htmx:responseError", (event) => {
    const { xhr, boosted, pathInfo } = event.detail;
    // What is not a page of ours is shown as the server sends it.
    if (boosted) location.assign(pathInfo.finalRequestPath);
    else if (xhr.status === 401) location.assign(location.href);
    else complain("A part of the page could not be loaded. Load the page again in a moment.");
  });

  return {
    all,
    memory,
    say,
    complain,
    loading: show,
    key(name, action) {
      keys.set(name, action);
    },
    /** Opens a menu by a key: the first thing in it has the focus then. */
    open(menu) {
      menu.dataset.byKey = "1";
      menu.open = true;
    },
  };
})();
