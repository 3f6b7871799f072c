/* The timeline: its types have the colours that they have everywhere, the most frequent ones first. */
"use strict";
(() => {
  const counts = new Map();
  for (const dot of Towpath.all("#main [data-type]")) counts.set(dot.dataset.type, (counts.get(dot.dataset.type) || 0) + 1);
  Towpath.colours.assign([...counts.keys()].sort((one, other) => counts.get(other) - counts.get(one)));
})();
