/* The search bar: shows the parts of a query while it is typed, and completes names of fields and their values. */
"use strict";
(() => {
  const TOKEN = /(\s+)|(-?)((?:context(?:\.(?:"(?:[^"\\]|\\.)*"|[^\s.:<>=!,()"*\\]+))+|[A-Za-z_]\w*))(<=|>=|[:<>])|("(?:[^"\\]|\\.)*"?)|(\b(?:OR|AND|NOT)\b)|([()])|([^\s()"]+)/g;
  const PLAIN = /^[^\s()",*<>=][^\s()",*]*$/;

  /** The query in spans: fields, exclusions, operators, quoted texts; what is wrong has a wave below. */
  function highlight(mirror, text, wrongAt) {
    mirror.textContent = "";
    const add = (part, kind, at) => {
      if (!part) return;
      const span = document.createElement("span");
      span.className = kind;
      span.textContent = part;
      if (wrongAt !== null && wrongAt >= at && wrongAt < at + part.length) span.classList.add("w");
      mirror.append(span);
    };
    for (const found of text.matchAll(TOKEN)) {
      const [whole, space, minus, field, operator, quoted, word, parenthesis] = found;
      const at = found.index;
      if (field !== undefined) add(whole, minus ? "n" : "f", at);
      else if (quoted !== undefined) add(whole, "s", at);
      else if (word !== undefined || parenthesis !== undefined) add(whole, "o", at);
      else add(whole, space ? "" : whole.startsWith("-") ? "n" : "", at);
    }
  }

  /** What stands before the caret and can be completed: a field, or a value of one. */
  function unfinished(text, caret) {
    const before = text.slice(0, caret);
    // Read from the start, where no quotation is open: there is only one way to read it, and no quotation is cut in two.
    const last = [...before.matchAll(/(?:[^\s()"]|"(?:[^"\\]|\\.)*(?:"|\\?$))+/g)].at(-1);
    const start = last && last.index + last[0].length === caret ? last.index : caret;
    const part = before.slice(start).replace(/^-/, "");
    const from = caret - part.length;
    const value = /^((?:context\.)?[^:<>=]+?):(?:.*,)?([^,]*)$/.exec(part);
    if (value) return { from: caret - value[2].length, field: value[1], typed: value[2].replace(/^"/, "") };
    return { from, field: null, typed: part };
  }

  const fields = () => JSON.parse(document.getElementById("fields").textContent);

  function choices({ field, typed }) {
    const wanted = typed.toLowerCase();
    if (field === null) {
      const paths = Towpath.all("#facets [data-field^='context.']").map((one) => ({ name: one.dataset.field, hint: "in the context" }));
      const all = [...fields(), ...paths].map((one) => ({ text: `${one.name}:`, hint: one.hint }));
      all.push({ text: "has:", hint: "a path that is there: has:context.email" }, { text: "context.", hint: "a path in the context" });
      return all.filter((one) => one.text.toLowerCase().startsWith(wanted) && one.text !== typed);
    }
    const section = Towpath.all("#facets .facet").find((one) => one.dataset.field === field);
    if (!section) return [];
    return Towpath.all("li", section)
      .map((one) => ({ text: `${one.dataset.written} `, shown: one.dataset.written, hint: one.querySelector(".count").textContent }))
      .filter((one) => one.shown.replace(/^"/, "").toLowerCase().includes(wanted) && one.shown !== typed)
      .slice(0, 12);
  }

  function set(form) {
    const input = form.querySelector("#q");
    const mirror = form.querySelector(".mirror");
    const list = form.querySelector("#completions");
    let wrongAt = input.dataset.wrongAt === undefined ? null : Number(input.dataset.wrongAt);
    let place = null;
    let active = -1;

    function draw() {
      highlight(mirror, input.value, wrongAt);
      mirror.scrollLeft = input.scrollLeft;
    }

    function close() {
      list.hidden = true;
      active = -1;
      input.setAttribute("aria-expanded", "false");
      input.removeAttribute("aria-activedescendant");
    }

    function mark(number) {
      const options = [...list.children];
      active = (number + options.length) % options.length;
      options.forEach((option, index) => option.setAttribute("aria-selected", String(index === active)));
      options[active].scrollIntoView({ block: "nearest" });
      input.setAttribute("aria-activedescendant", options[active].id);
    }

    function offer() {
      if (input.selectionStart !== input.selectionEnd) return close();
      place = unfinished(input.value, input.selectionStart);
      const found = choices(place);
      if (!found.length) return close();
      list.textContent = "";
      found.forEach((choice, index) => {
        const option = document.createElement("li");
        option.id = `completion-${index}`;
        option.setAttribute("role", "option");
        option.setAttribute("aria-selected", "false");
        option.dataset.text = choice.text;
        option.textContent = choice.shown || choice.text;
        const hint = document.createElement("span");
        hint.textContent = choice.hint;
        option.append(hint);
        list.append(option);
      });
      list.hidden = false;
      active = -1;
      input.setAttribute("aria-expanded", "true");
    }

    function take(option) {
      const caret = input.selectionStart;
      input.setRangeText(option.dataset.text, place.from, caret, "end");
      wrongAt = null;
      draw();
      offer();
    }

    form.classList.add("has-mirror");
    draw();
    input.addEventListener("input", () => {
      wrongAt = null;
      draw();
      offer();
    });
    input.addEventListener("scroll", draw);
    input.addEventListener("focus", () => {
      if (!input.value) offer();
    });
    input.addEventListener("click", () => {
      if (!input.value) offer();
    });
    input.addEventListener("blur", close);
    list.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const option = event.target.closest("li");
      if (option) take(option);
    });
    form.addEventListener("submit", close);
    input.addEventListener("keydown", (event) => {
      const isOpen = !list.hidden;
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        if (!isOpen) offer();
        if (!list.hidden) mark(event.key === "ArrowDown" ? active + 1 : active < 0 ? -1 : active - 1);
        event.preventDefault();
      } else if (isOpen && active >= 0 && (event.key === "Enter" || event.key === "Tab")) {
        take(list.children[active]);
        event.preventDefault();
      } else if (event.key === "Escape") {
        if (isOpen) close();
        else input.blur();
        event.stopPropagation();
        event.preventDefault();
      }
    });
    form.querySelector(".box").addEventListener("pointerdown", (event) => {
      if (event.target.closest("a, input")) return;
      event.preventDefault();
      input.focus();
    });
  }

  Towpath.searchbar = { set };
})();
