/* The theme that the person has chosen, before anything is painted. Without a choice, it is the system's. */
"use strict";
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("towpath.theme");
  } catch {
    // A browser that stores nothing has the system's.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
