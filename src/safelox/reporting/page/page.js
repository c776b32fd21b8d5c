"use strict";
// The page's controls: theme, choice of charts, sorting of tables, print, and the browser of replies.
(() => {
  const root = document.documentElement;
  const find = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const hasCharts = typeof Charts !== "undefined";
  const PAGE = 20;

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "data") Object.assign(element.dataset, value);
      else element[name] = value;
    }
    element.append(...children);
    return element;
  }

  // Charts

  const isShown = (chart) => !chart.hidden;
  const shownCharts = () => all(".chart").filter(isShown).map((chart) => chart.dataset.chart);

  function drawShown(width) {
    if (hasCharts) for (const id of shownCharts()) Charts.draw(id, width);
  }

  function choose(select) {
    const figure = select.closest(".figure");
    for (const chart of figure.querySelectorAll(".chart")) chart.hidden = chart.dataset.chart !== select.value;
    figure.classList.add("chosen");
    if (root.dataset.ready && hasCharts) Charts.draw(select.value);
  }

  // What can be seen is drawn at once, the rest one by one while nobody is waiting.
  function drawFirst() {
    const isNear = (id) => find(`#chart-${CSS.escape(id)}`).getBoundingClientRect().top < innerHeight * 1.3;
    const shown = hasCharts ? shownCharts() : [];
    for (const id of shown.filter(isNear)) Charts.draw(id);
    root.dataset.ready = "true";
    drawWhenIdle(shown);
  }

  const whenIdle = window.requestIdleCallback ?? ((work) => setTimeout(work, 30));
  function drawWhenIdle(ids) {
    const left = ids.filter((id) => !Charts.isDrawn(id));
    if (!left.length) {
      root.dataset.drawn = "true";
      return;
    }
    Charts.draw(left[0]);
    whenIdle(() => drawWhenIdle(left.slice(1)), { timeout: 400 });
  }

  for (const select of all("select[data-figure]")) {
    select.closest("label").hidden = false;
    select.addEventListener("change", () => choose(select));
    choose(select);
  }
  setTimeout(drawFirst, 0);

  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width || printing) return;
    width = innerWidth;
    clearTimeout(drawShown.timer);
    drawShown.timer = setTimeout(drawShown, 150);
  });

  // Theme

  const themeButton = find("#theme");
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
  function nameTheme() {
    themeButton.textContent = isDark() ? "Light theme" : "Dark theme";
  }
  themeButton.hidden = false;
  nameTheme();
  themeButton.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
    drawShown();
  });
  systemDark.addEventListener("change", () => {
    nameTheme();
    if (!printing) drawShown();
  });

  // Print: all charts, all numbers, on white.

  let printing = null;
  addEventListener("beforeprint", () => {
    if (printing) return;
    printing = { theme: root.dataset.theme, hidden: all(".chart[hidden]"), closed: all("details.numbers:not([open]), details.missing:not([open])") };
    root.dataset.theme = "light";
    for (const chart of printing.hidden) chart.hidden = false;
    for (const details of printing.closed) details.open = true;
    drawShown(660);
  });
  addEventListener("afterprint", () => {
    if (!printing) return;
    const { theme, hidden, closed } = printing;
    printing = null;
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    for (const chart of hidden) chart.hidden = true;
    for (const details of closed) details.open = false;
    drawShown();
  });

  // Tables

  const collator = new Intl.Collator("en", { numeric: true });
  function sortBy(table, place, header) {
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[place].dataset.value;
    const rows = [...table.tBodies[0].rows].sort((one, two) => {
      const a = key(one), b = key(two);
      if (a === undefined) return collator.compare(one.cells[place].textContent, two.cells[place].textContent) * (down ? -1 : 1);
      if (a === "" || b === "") return (a === "") - (b === "");
      return (Number(a) - Number(b)) * (down ? -1 : 1);
    });
    table.tBodies[0].append(...rows);
  }
  for (const table of all("main table")) {
    [...table.querySelectorAll("thead th")].forEach((header, place) => {
      const button = make("button", { type: "button", textContent: header.textContent });
      button.addEventListener("click", () => sortBy(table, place, header));
      header.replaceChildren(button);
    });
  }

  // Where one is

  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  for (const section of all("main > section")) watcher.observe(section);

  // Replies

  const packed = find("#packed");
  if (!packed) return;
  const gate = find("#open-replies");
  const search = find("#search");
  const controls = { model: find("#filter-model"), suite: find("#filter-suite"), judge: find("#filter-judge"), outcome: find("#filter-outcome") };
  const list = find("#list");
  let data = null, found = [], page = 0, unfolded = false, only = null, opening = null;
  gate.hidden = false;
  if (!("DecompressionStream" in window)) {
    gate.textContent = "This browser is too old to unpack the replies; they are in samples.jsonl of each results folder.";
    gate.disabled = true;
  }

  async function unpack() {
    const bytes = Uint8Array.from(atob(packed.textContent.trim()), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  function fill(select, names, everything) {
    if (everything) select.append(make("option", { value: "", textContent: everything }));
    names.forEach((name, place) => select.append(make("option", { value: String(place), textContent: name })));
  }

  function open() {
    opening ??= (async () => {
      gate.setAttribute("aria-expanded", "true");
      data = await unpack();
      packed.remove();
      const asked = new Set(data.rows.map(([model]) => model));
      fill(controls.model, data.models, "all");
      for (const option of [...controls.model.options]) if (option.value && !asked.has(Number(option.value))) option.remove();
      fill(controls.suite, data.suites, "all");
      fill(controls.judge, data.judges, null);
      fill(controls.outcome, data.outcomes, "all");
      gate.hidden = true;
      find("#browser").hidden = false;
      filter();
      root.dataset.replies = "ready";
    })();
    return opening;
  }

  // Lower-case text of every reply, made when it is first searched for.
  const haystacks = [];
  function haystack(place) {
    if (haystacks[place] === undefined) {
      const [, , id, prompt, reply, , verdicts] = data.rows[place];
      const said = data.prompts[prompt].map(([, text]) => text);
      haystacks[place] = [id, ...said, reply, ...verdicts.map(([, , , raw]) => raw ?? "")].join("\n").toLowerCase();
    }
    return haystacks[place];
  }

  function filter() {
    const chosen = (name) => (controls[name].value === "" ? null : Number(controls[name].value));
    const [model, suite, outcome] = ["model", "suite", "outcome"].map(chosen);
    const judge = chosen("judge") ?? 0;
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = [];
    data.rows.forEach((row, place) => {
      if (model !== null && row[0] !== model) return;
      if (suite !== null && row[1] !== suite) return;
      if (only && (row[1] !== only.suite || row[2] !== only.id)) return;
      if (outcome !== null && !row[6].some(([who, what]) => who === judge && what === outcome)) return;
      if (words.length && !words.every((word) => haystack(place).includes(word))) return;
      found.push(place);
    });
    show(0);
  }

  function show(number) {
    page = Math.max(0, Math.min(number, Math.ceil(found.length / PAGE) - 1));
    const places = found.slice(page * PAGE, (page + 1) * PAGE);
    list.replaceChildren(...places.map(listed));
    const of = data.rows.length.toLocaleString("en");
    const same = only ? ` to the prompt ${only.id}` : "";
    find("#count").textContent = found.length ? `${found.length.toLocaleString("en")} of ${of} replies${same}` : "No reply matches. Clear the filters to see all.";
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    find("#page").textContent = `Page ${(page + 1).toLocaleString("en")} of ${pages.toLocaleString("en")}`;
    find("#previous").disabled = page === 0;
    find("#next").disabled = page + 1 >= pages;
  }

  function listed(place) {
    const [model, suite, id, prompt, , , verdicts] = data.rows[place];
    const judge = Number(controls.judge.value || 0);
    const verdict = verdicts.find(([who]) => who === judge) ?? verdicts[0];
    const outcome = verdict ? data.outcomes[verdict[1]] : "unscored";
    const last = data.prompts[prompt].at(-1)?.[1] ?? "";
    const asked = make("span", { className: "asked", dir: "auto", textContent: last.slice(0, 200) || "(empty prompt)" });
    const who = make("span", { className: "who", textContent: `${data.models[model]} · ${data.suites[suite]} · ${id}` });
    const chip = make("span", { className: "chip", textContent: outcome, data: { outcome } });
    const details = make("details", { className: "reply" }, make("summary", {}, chip, asked, who));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(body(place));
    });
    if (unfolded) {
      details.append(body(place));
      details.open = true;
    }
    return make("li", {}, details);
  }

  function turn(name, text, className = "") {
    const said = make("div", { className: "said", dir: "auto", tabIndex: 0, textContent: text === "" ? "(nothing)" : text });
    return make("div", { className: `turn ${className}` }, make("h4", { textContent: name }), said);
  }

  function body(place) {
    const [, suite, id, prompt, reply, incoherence, verdicts] = data.rows[place];
    const turns = data.prompts[prompt].map(([role, text]) => turn(role, text));
    turns.push(turn("reply", reply, "answer"));
    for (const [judge, outcome, score, raw] of verdicts) {
      const told = `${data.outcomes[outcome]}${score === null ? "" : `, score ${score}`}${incoherence ? `; its form: ${incoherence}` : ""}`;
      turns.push(turn(`judge ${data.judges[judge]}`, raw === null ? told : `${told}\n${raw}`));
    }
    const same = make("button", { type: "button", textContent: "This prompt in all models" });
    same.addEventListener("click", () => {
      clear();
      only = { suite, id };
      filter();
      find("#count").scrollIntoView({ block: "center" });
      list.querySelector("summary")?.focus();
    });
    return make("div", { className: "body" }, ...turns, make("p", {}, same));
  }

  function clear() {
    only = null;
    search.value = "";
    for (const name of ["model", "suite", "outcome"]) controls[name].value = "";
  }

  gate.addEventListener("click", async () => {
    await open();
    search.focus();
  });
  search.addEventListener("input", () => {
    clearTimeout(search.timer);
    search.timer = setTimeout(filter, 120);
  });
  for (const select of Object.values(controls)) select.addEventListener("change", filter);
  find("#filters").addEventListener("submit", (event) => event.preventDefault());
  find("#clear").addEventListener("click", () => {
    clear();
    filter();
  });
  find("#previous").addEventListener("click", () => show(page - 1));
  find("#next").addEventListener("click", () => show(page + 1));
  find("#unfold").addEventListener("click", ({ target }) => {
    unfolded = !unfolded;
    target.setAttribute("aria-pressed", String(unfolded));
    target.textContent = unfolded ? "Fold all" : "Unfold all";
    show(page);
  });
  document.addEventListener("replies", async ({ detail }) => {
    await open();
    clear();
    const place = (names, name) => { const at = names.indexOf(name); return at < 0 ? "" : String(at); };
    controls.model.value = String(detail.model);
    controls.suite.value = place(data.suites, detail.suite);
    controls.judge.value = place(data.judges, detail.judge) || "0";
    if (detail.outcome) controls.outcome.value = place(data.outcomes, detail.outcome);
    filter();
    find("#replies").scrollIntoView();
  });
})();
