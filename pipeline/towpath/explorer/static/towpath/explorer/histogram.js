/* The histogram: how many events of each type, loaded from the newest end. What is not counted yet looks so.
   uPlot has the scales, the axis and the brush; the stacked bars are drawn here. */
"use strict";
(() => {
  const HEIGHT = 132;
  const FAINT = 0.35;

  class Histogram {
    constructor(section) {
      const { url, since, until, step, zone } = section.dataset;
      Object.assign(this, { section, url, zone, since: Number(since), until: Number(until), step: Number(step) });
      this.plotted = section.querySelector("[data-plot]");
      this.totals = new Map();
      this.bars = new Map();
      this.types = [];
      this.backTo = this.until;
      this.isComplete = false;
      this.hovered = null;
      this.brushed = null;
      this.stopping = new AbortController();
      const time = { timeZone: zone, hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
      this.clock = new Intl.DateTimeFormat("en-GB", this.step % 60 ? { ...time, second: "2-digit" } : time);
      this.day = new Intl.DateTimeFormat("en-GB", { timeZone: zone, weekday: "short", day: "numeric", month: "short" });
      this.draw = this.draw.bind(this);
      this.make();
      if (!("off" in section.dataset)) this.load();
    }

    stop() {
      this.stopping.abort();
      this.watching.disconnect();
      this.plot.destroy();
    }

    make() {
      const colour = Towpath.colours.token;
      const whole = () => [this.since, this.until];
      this.plot = new uPlot(
        {
          width: this.plotted.clientWidth,
          height: this.plotted.clientHeight || HEIGHT,
          padding: [8, 4, 0, 4],
          legend: { show: false },
          scales: { x: { time: true, range: whole }, y: { range: (_plot, _least, most) => [0, Math.max(4, most * 1.04)] } },
          tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), this.zone),
          axes: [
            {
              stroke: () => colour("faint"), font: `11px ${getComputedStyle(document.body).fontFamily}`, size: 24, gap: 6, space: 104,
              grid: { show: false }, ticks: { show: false }, values: (plot, splits) => this.named(plot, splits),
            },
            { show: false },
          ],
          series: [{}, { paths: () => null, points: { show: false } }],
          cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false, dist: 4 } },
          hooks: {
            draw: [this.draw],
            setSelect: [(plot) => this.brush(plot)],
            setCursor: [(plot) => this.hover(plot)],
          },
        },
        [[this.since, this.until], [null, null]],
        this.plotted,
      );
      this.mark = document.createElement("div");
      this.mark.className = "hover";
      this.mark.hidden = true;
      this.plot.over.append(this.mark);
      this.plot.over.addEventListener("click", () => {
        // A click on a bar is a brush of its width.
        if (this.hovered !== null && !this.isBrushed) this.go(this.hovered, this.hovered + this.step);
        this.isBrushed = false;
      });
      this.watching = new ResizeObserver(() => {
        const width = this.plotted.clientWidth;
        if (width && width !== this.plot.width) this.plot.setSize({ width, height: this.plotted.clientHeight || HEIGHT });
      });
      this.watching.observe(this.plotted);
    }

    async load() {
      let backTo = "";
      try {
        while (!this.isComplete) {
          const url = backTo ? `${this.url}&back_to=${encodeURIComponent(backTo)}` : this.url;
          const answer = await fetch(url, { headers: { Accept: "application/json" }, signal: this.stopping.signal });
          if (answer.status === 401) return location.reload();
          const found = await answer.json();
          if (!answer.ok) return this.fail(found.problem);
          this.add(found);
          const next = new Date(found.back_to * 1000).toISOString();
          if (next === backTo) return this.fail("The rest cannot be counted.");
          backTo = next;
        }
        this.section.dataset.counted = "all";
        Towpath.say(`${this.total().toLocaleString("en")} events`);
      } catch (error) {
        if (error.name !== "AbortError") this.fail("The server does not answer. Load the page again.");
      }
    }

    fail(problem) {
      this.section.dataset.counted = "part";
      this.section.querySelector("[data-told]").textContent = problem;
      if (!this.bars.size) {
        this.section.querySelector("[data-total]").textContent = "–";
        const trouble = document.createElement("p");
        trouble.className = "trouble";
        trouble.textContent = "Not counted";
        this.plotted.append(trouble);
      }
    }

    add({ types, bars, back_to: backTo, is_complete: isComplete }) {
      for (const [start, number, events] of bars) {
        const type = types[number];
        const bar = this.bars.get(start) || new Map();
        bar.set(type, (bar.get(type) || 0) + events);
        this.bars.set(start, bar);
        this.totals.set(type, (this.totals.get(type) || 0) + events);
      }
      this.backTo = backTo;
      this.isComplete = isComplete;
      this.types = [...this.totals].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).map(([type]) => type);
      Towpath.colours.assign(this.types);
      const starts = [...this.bars.keys()].sort((a, b) => a - b);
      const heights = starts.map((start) => this.height(this.bars.get(start)));
      // Both ends, so that the range is the page's even without bars.
      this.plot.setData([[this.since - this.step, ...starts, this.until + this.step], [null, ...heights, null]]);
      this.tell();
      this.describe();
    }

    total() {
      return sum(this.totals.values());
    }

    draw(plot) {
      const { ctx } = plot;
      const { left, top, width, height } = plot.bbox;
      const ratio = devicePixelRatio;
      const colours = this.types.map((type) => Towpath.colours.token(`t${Towpath.colours.slot(type)}`));
      ctx.save();
      ctx.beginPath();
      ctx.rect(left, top, width, height);
      ctx.clip();
      // Two lines are enough to read a height by.
      ctx.fillStyle = Towpath.colours.token("line");
      ctx.fillRect(left, top + height - ratio, width, ratio);
      if (!this.isComplete && this.bars.size) this.hatch(plot, Towpath.colours.token("line-strong"));
      for (const [start, bar] of this.bars) {
        const from = Math.round(plot.valToPos(Math.max(start, this.since), "x", true));
        const to = Math.round(plot.valToPos(Math.min(start + this.step, this.until), "x", true));
        const gap = to - from > 4 * ratio ? ratio : 0;
        const isPartial = !this.isComplete && start < this.backTo;
        ctx.globalAlpha = isPartial ? FAINT : 1;
        let under = 0;
        let floor = top + height - ratio;
        this.types.forEach((type, number) => {
          const events = bar.get(type);
          if (!events) return;
          under += events;
          const roof = Math.min(Math.round(plot.valToPos(under, "y", true)), floor - ratio);
          ctx.fillStyle = colours[number];
          // A hair of the background between two types, where there is room for it.
          const hair = gap && floor - roof > 6 * ratio && under < this.height(bar) ? Math.max(1, Math.round(ratio / 2)) : 0;
          ctx.fillRect(from + gap, roof, Math.max(ratio, to - from - 2 * gap), floor - roof - hair);
          floor = roof;
        });
      }
      ctx.restore();
    }

    within(from, to) {
      const bar = new Map();
      for (const [start, one] of this.bars) {
        if (start >= from && start < to) for (const [type, events] of one) bar.set(type, (bar.get(type) || 0) + events);
      }
      return bar;
    }

    height(bar) {
      return sum(bar.values());
    }

    /** What is not counted yet. */
    hatch(plot, colour) {
      const { ctx } = plot;
      const { left, top, height } = plot.bbox;
      const end = plot.valToPos(Math.max(this.backTo, this.since), "x", true);
      ctx.save();
      ctx.beginPath();
      ctx.rect(left, top, end - left, height);
      ctx.clip();
      ctx.strokeStyle = colour;
      ctx.globalAlpha = 0.6;
      ctx.lineWidth = devicePixelRatio;
      ctx.beginPath();
      for (let x = left - height; x < end; x += 8 * devicePixelRatio) {
        ctx.moveTo(x, top + height);
        ctx.lineTo(x + height, top);
      }
      ctx.stroke();
      ctx.restore();
    }

    named(plot, splits) {
      let day = "";
      const width = plot.bbox.width / devicePixelRatio;
      return splits.map((seconds) => {
        // What would be cut at the edges is left out.
        const at = plot.valToPos(seconds, "x");
        if (at < (day ? 0 : 40) || at > width - 24) return "";
        const moment = new Date(seconds * 1000);
        const today = this.day.format(moment);
        const clock = this.clock.format(moment);
        if (this.step >= 21600 || /^00:00(:00)?$/.test(clock)) {
          day = today;
          return today.replace(",", "");
        }
        const text = today === day ? clock : `${today.replace(",", "")}, ${clock}`;
        day = today;
        return text;
      });
    }

    hover(plot) {
      const { left } = plot.cursor;
      this.brushed = plot.select.width > 1 ? this.touched(plot) : null;
      if (this.brushed) {
        this.hovered = null;
        this.mark.hidden = true;
        return this.tell();
      }
      const at = left >= 0 ? Math.floor(plot.posToVal(left, "x") / this.step) * this.step : null;
      if (at === this.hovered) return;
      this.hovered = at;
      this.mark.hidden = at === null;
      if (at !== null) {
        const from = plot.valToPos(Math.max(at, this.since), "x");
        this.mark.style.left = `${from}px`;
        this.mark.style.width = `${plot.valToPos(Math.min(at + this.step, this.until), "x") - from}px`;
      }
      this.tell();
    }

    /** Bars that the brush touches, whole: the count of what is shown next is the sum of these bars. */
    brush(plot) {
      if (plot.select.width < 2) return;
      this.isBrushed = true;
      this.go(...this.touched(plot));
    }

    touched(plot) {
      const { left, width } = plot.select;
      const from = Math.floor(plot.posToVal(left, "x") / this.step) * this.step;
      return [from, Math.ceil(plot.posToVal(left + width, "x") / this.step) * this.step];
    }

    go(from, to) {
      const since = Math.max(from, this.since);
      const until = Math.min(to, this.until);
      if (until - since < 0.001) return;
      const form = document.getElementById("between");
      form.elements.since.value = new Date(since * 1000).toISOString().replace(".000Z", "Z");
      form.elements.until.value = new Date(until * 1000).toISOString().replace(".000Z", "Z");
      form.requestSubmit();
    }

    /** The figures beside the types: of the bar that is pointed at, or of all. */
    tell() {
      const span = this.brushed || (this.hovered === null ? null : [this.hovered, this.hovered + this.step]);
      const bar = span ? this.within(...span) : this.totals;
      const total = this.height(bar);
      const isOpen = !this.isComplete && (!span || span[0] < this.backTo);
      this.section.querySelector("[data-total]").textContent = `${total.toLocaleString("en")}${isOpen ? "+" : ""}`;
      this.section.querySelector("[data-unit]").textContent = total === 1 ? "event" : "events";
      const told = this.section.querySelector("[data-told]");
      if (span) {
        const [from, to] = span.map((seconds) => this.moment(seconds));
        // Of an end on the same day, the time is enough.
        told.textContent = `${from} – ${to.split(", ")[0] === from.split(", ")[0] ? to.split(", ")[1] : to}`;
      }
      else told.textContent = this.isComplete ? "" : `Counted back to ${this.moment(this.backTo)}`;
      const list = this.section.querySelector("[data-types]");
      const shown = this.types.slice(0, Towpath.colours.MOST);
      const others = this.types.slice(Towpath.colours.MOST);
      const entries = shown.map((type) => [type, bar.get(type) || 0, Towpath.colours.slot(type)]);
      if (others.length) entries.push([`${others.length} more`, sum(others.map((type) => bar.get(type) || 0)), 0]);
      while (list.children.length > entries.length) list.lastChild.remove();
      entries.forEach(([name, events, slot], index) => {
        const item = list.children[index] || list.appendChild(entry());
        item.classList.toggle("is-none", !events);
        item.children[0].className = `dot c${slot}`;
        item.children[1].textContent = name;
        item.children[2].textContent = events.toLocaleString("en");
      });
    }

    moment(seconds) {
      const moment = new Date(seconds * 1000);
      return `${this.day.format(moment).replace(",", "")}, ${this.clock.format(moment)}`;
    }

    describe() {
      const named = this.types.slice(0, 5).map((type) => `${type} ${this.totals.get(type)}`);
      this.plotted.setAttribute("aria-label", `Histogram: ${this.total()} events from ${this.moment(this.since)} to ${this.moment(this.until)} ${this.zone}. ${named.join(", ")}`);
    }
  }

  const sum = (numbers) => [...numbers].reduce((total, each) => total + each, 0);

  function entry() {
    const item = document.createElement("li");
    const count = document.createElement("span");
    count.className = "count";
    item.append(document.createElement("i"), document.createElement("span"), " ", count);
    return item;
  }

  let current = null;
  Towpath.histogram = {
    show(section) {
      current?.stop();
      current = section ? new Histogram(section) : null;
    },
  };
  // A canvas has no variables of the style's.
  document.addEventListener("towpath:theme", () => current?.plot.redraw());
})();
