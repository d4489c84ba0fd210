// What the pages do beyond their forms: live updates, keys, times that go on. Without it all forms work.
"use strict";

(() => {
  const root = document.documentElement;
  const base = root.dataset.base;

  // -- times: the server's clock counts, not this machine's --------------------------------------------

  let ahead = Date.now() - Date.parse(root.dataset.now);
  const units = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];

  function told(seconds) {
    const size = Math.abs(seconds);
    if (size < 1) return "now";
    const [unit, one] = units.find(([, each]) => size >= each);
    const text = `${Math.floor(size / one)} ${unit}`;
    return seconds > 0 ? `${text} ago` : `in ${text}`;
  }

  function tick() {
    const now = Date.now() - ahead;
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const text = told((now - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  }
  setInterval(() => { if (!document.hidden) tick(); }, 1000);

  // -- what the address says once -----------------------------------------------------------------------

  const address = new URL(location.href);
  if (address.searchParams.has("note")) {
    address.searchParams.delete("note");
    history.replaceState(null, "", address);
  }

  // -- live ------------------------------------------------------------------------------------------------

  const sign = document.getElementById("live");
  let stream = null, held = false, busy = false, again = false, timer = null, greeted = false;

  function say(kind, text) {
    if (!sign) return;
    sign.hidden = false;
    sign.className = `live ${kind}`;
    if (sign.textContent !== text) sign.textContent = text;
  }

  function parts() {
    return [...document.querySelectorAll("[data-parts]")];
  }

  function chosen() {
    return document.querySelector("#rows input[name=id]:checked") !== null;
  }

  // The rows stay where they are while somebody ticks them.
  function still() {
    return held || chosen();
  }

  function replace(old, fresh) {
    const open = new Map([...old.querySelectorAll("details[data-key]")].map((each) => [each.dataset.key, each.open]));
    const active = old.contains(document.activeElement) ? document.activeElement : null;
    const place = active && [...old.querySelectorAll("a, button, input, summary, pre")].indexOf(active);
    const row = old.querySelector("tr.here");
    const scrolls = [...old.querySelectorAll("pre, .scroll, .numbers ul")].map((each) => [each.scrollLeft, each.scrollTop]);
    old.replaceChildren(...fresh.childNodes);
    for (const each of old.querySelectorAll("details[data-key]")) {
      if (open.has(each.dataset.key)) each.open = open.get(each.dataset.key);
    }
    [...old.querySelectorAll("pre, .scroll, .numbers ul")].forEach((each, index) => {
      if (scrolls[index]) [each.scrollLeft, each.scrollTop] = scrolls[index];
    });
    if (row) old.querySelector(`tr[data-row="${CSS.escape(row.dataset.row)}"]`)?.classList.add("here");
    if (active) old.querySelectorAll("a, button, input, summary, pre")[place]?.focus({ preventScroll: true });
    enhance(old);
  }

  const before = new Map();

  async function renew() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { "X-Sqla-Jobs-Live": "1" }, credentials: "same-origin" });
      if (answer.redirected) { location.reload(); return; }
      if (!answer.ok) { say("off", answer.status === 404 ? "Gone" : "No answer"); return; }
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (still()) return;
      ahead = Date.now() - Date.parse(page.documentElement.dataset.now);
      for (const old of parts()) {
        const fresh = page.getElementById(old.id);
        if (!fresh) continue;
        const text = fresh.innerHTML;
        if (before.get(old.id) === text) continue;
        before.set(old.id, text);
        replace(old, fresh);
      }
      tick();
      say("on", "Live");
    } catch {
      say("off", "No answer");
    } finally {
      busy = false;
      if (again) { again = false; later(); }
    }
  }

  // At most once a second, however many events come.
  function later() {
    if (timer === null) timer = setTimeout(() => { timer = null; if (!still()) renew(); }, 1000);
  }

  function listen() {
    if (!root.dataset.live || !parts().length || !window.EventSource) return;
    stream = new EventSource(root.dataset.live);
    stream.addEventListener("hello", () => {
      if (!still()) say("on", "Live");
      if (greeted) later();
      greeted = true;
    });
    stream.addEventListener("changed", (event) => {
      const changed = JSON.parse(event.data);
      if (still()) { say("", held ? "Held" : "Held while jobs are ticked"); return; }
      if (changed.includes("*") || parts().some((each) => each.dataset.parts.split(" ").some((part) => changed.includes(part)))) later();
    });
    stream.addEventListener("error", () => {
      // A stream that has come to its end is opened again by the browser; one that was refused is not.
      if (stream.readyState === EventSource.CLOSED) say("off", "Not live");
    });
  }

  // A hidden page has no stream: browsers open six connections to a server, and no more.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { stream?.close(); stream = null; }
    else if (!stream) listen();
  });
  window.addEventListener("pagehide", () => { stream?.close(); stream = null; });
  window.addEventListener("pageshow", (event) => { if (event.persisted && !stream) listen(); });

  function hold() {
    held = !held;
    if (held) say("", "Held");
    else { say("on", "Live"); renew(); }
  }

  // -- ticking all -----------------------------------------------------------------------------------------

  function boxes() {
    return [...document.querySelectorAll("#rows input[name=id]")];
  }

  function enhance(within) {
    const head = within.querySelector("thead .tick");
    if (!head || head.querySelector("input")) return;
    const all = document.createElement("input");
    all.type = "checkbox";
    all.setAttribute("aria-label", "Tick all jobs of this page");
    all.addEventListener("change", () => {
      for (const box of boxes()) box.checked = all.checked;
      chose();
    });
    head.append(all);
  }

  function chose() {
    if (chosen()) say("", "Held while jobs are ticked");
    else if (stream) { say("on", "Live"); later(); }
  }
  document.addEventListener("change", (event) => { if (event.target.name === "id") chose(); });

  // -- keys ------------------------------------------------------------------------------------------------

  const KEYS = "sqla_jobs_keys";
  const pages = { o: "", j: "jobs", q: "queues", s: "schedules", w: "workers" };
  let going = 0;

  function keysOn() {
    try { return localStorage.getItem(KEYS) !== "off"; } catch { return true; }
  }

  const toggle = document.getElementById("keys");
  if (toggle) {
    toggle.disabled = false;
    toggle.checked = keysOn();
    toggle.addEventListener("change", () => {
      try { localStorage.setItem(KEYS, toggle.checked ? "on" : "off"); } catch { /* private mode */ }
    });
  }

  function rows() {
    return [...document.querySelectorAll("tr[data-row]")];
  }

  function move(step) {
    const all = rows();
    if (!all.length) return;
    const from = all.findIndex((each) => each.classList.contains("here"));
    const to = from < 0 ? (step > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, from + step));
    all[from]?.classList.remove("here");
    all[to].classList.add("here");
    all[to].querySelector("td.n a").focus();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || !keysOn()) return;
    const target = event.target;
    const types = target.matches("textarea, select, input:not([type=checkbox])") || target.isContentEditable;
    if (types) { if (event.key === "Escape") target.blur(); return; }
    if (Date.now() - going < 1500 && event.key in pages) {
      going = 0;
      location.assign(base + pages[event.key]);
      return;
    }
    going = event.key === "g" ? Date.now() : 0;
    const here = document.querySelector("tr.here");
    if (event.key === "/") {
      const filter = document.getElementById("filter");
      if (filter) { event.preventDefault(); filter.focus(); filter.select(); }
      else location.assign(`${base}jobs`);
    } else if (event.key === "?") location.assign(`${base}help`);
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "x" && here) {
      const box = here.querySelector("input[name=id]");
      if (box) { box.checked = !box.checked; chose(); }
    } else if (event.key === "." && stream) hold();
  });

  enhance(document);
  listen();
})();
