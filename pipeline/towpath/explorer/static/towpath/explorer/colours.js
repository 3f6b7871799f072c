/* Each type of event has a colour, the same in histogram, filters and table, and the same tomorrow in this browser.
   There are eight; the most frequent types have one each, and all others are grey. */
"use strict";
Towpath.colours = (() => {
  /** In the order in which they are given: calm ones for what there is most of. */
  const ORDER = [1, 3, 6, 5, 2, 4, 7, 8];
  const MOST = ORDER.length;
  // Without a prototype: a type may be called constructor.
  const byType = (slots) => Object.assign(Object.create(null), slots);
  const remembered = byType(JSON.parse(Towpath.memory.read("colours") || "{}"));
  let slots = byType(remembered);
  const probe = document.createElement("i");
  probe.hidden = true;

  /** Gives the types, the most frequent first, their colours: two on one page never share one but grey. */
  function assign(types) {
    const taken = new Set();
    const next = byType({});
    const first = types.slice(0, MOST);
    for (const type of first) {
      const slot = remembered[type];
      if (slot && !taken.has(slot)) {
        next[type] = slot;
        taken.add(slot);
      }
    }
    for (const type of first) {
      if (next[type]) continue;
      const slot = ORDER.find((one) => !taken.has(one));
      next[type] = remembered[type] = slot;
      taken.add(slot);
    }
    slots = next;
    // A browser that has seen many types forgets the oldest.
    const names = Object.keys(remembered);
    for (const name of names.slice(0, Math.max(0, names.length - 200))) delete remembered[name];
    Towpath.memory.write("colours", JSON.stringify(remembered));
    paint(document);
  }

  const slot = (type) => slots[type] || 0;

  /** The dots of types within an element. */
  function paint(within) {
    for (const dot of within.querySelectorAll("[data-type]")) dot.className = `dot c${slot(dot.dataset.type)}`;
  }

  /** A token of the style as a canvas needs it, in the theme that is shown. */
  function token(name) {
    document.body.append(probe);
    probe.style.color = `var(--${name})`;
    const colour = getComputedStyle(probe).color;
    probe.remove();
    return colour;
  }

  return { assign, paint, slot, token, MOST };
})();
