// The participant's page: turns pages, saves answers, and loses none when the server is away.
// The words, the texts and all decisions come from the server; see userstudy/app/server.py for what is said.
(() => {
  "use strict";
  const root = document.documentElement;
  const config = window.gradio_config;
  const functions = Object.fromEntries(config.dependencies.map((d) => [d.api_name, d.id]));
  const query = new URLSearchParams(location.search);
  let token = query.get("t") || "";
  let study, announcer;                    // the page; what screen readers are told
  let stage = "", position = 0, language = root.lang;
  let busy = false;

  // What the browser remembers. It may refuse to; then the page works all the same.
  const storage = {
    read(name) { try { return localStorage.getItem(name); } catch { return null; } },
    write(name, value) {
      try {
        if (value === null) localStorage.removeItem(name); else localStorage.setItem(name, value);
      } catch { /* full, or not allowed */ }
    },
  };

  const themed = storage.read("quantxai-theme");
  if (themed) root.dataset.theme = themed;

  function name() {                        // of this participant's memory: nothing leads from it to the link
    let a = 0x811c9dc5, b = 0x9dc5811c;
    for (const letter of token) {
      a = Math.imul(a ^ letter.charCodeAt(0), 0x01000193);
      b = Math.imul(b ^ letter.charCodeAt(0), 0x85ebca6b) + a;
    }
    return `quantxai-${(a >>> 0).toString(16)}${(b >>> 0).toString(16)}`;
  }
  const recall = () => { try { return JSON.parse(storage.read(name())) || {}; } catch { return {}; } };
  function remember(change) {
    if (!token) return;
    const memory = { unsent: {}, ...recall() };
    change(memory);
    const empty = !Object.keys(memory.unsent).length && !memory.seconds;
    storage.write(name(), empty ? null : JSON.stringify(memory));
  }

  // Speaking to the server
  const base = new URL(`${config.root || ""}/`.replace(/\/+$/, "/"), location.href).pathname;
  async function send(what, request) {
    const response = await fetch(`${base}${(config.api_prefix || "/gradio_api").slice(1)}/run/predict`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ fn_index: functions[what], data: [token, { language, ...request }] }),
      signal: AbortSignal.timeout ? AbortSignal.timeout(20000) : undefined,
      keepalive: what === "answer",
    });
    if (response.ok) return (await response.json()).data[0];
    if ([400, 403, 413].includes(response.status)) return { ok: false, kind: "invalid_answer" };
    throw new Error(String(response.status));
  }

  const pause = (ms) => new Promise((done) => {
    setTimeout(done, ms);
    addEventListener("online", done, { once: true });
  });

  async function insist(what, request) {   // until the server has answered; the same call, with the same key
    for (let attempt = 0; ; attempt += 1) {
      try {
        const reply = await send(what, request);
        if (!reply.retry) { away(""); return reply; }
        away("text");
      } catch (error) {
        away(error.message === "429" ? "busy" : what === "answer" ? "waiting" : "text");
      }
      await pause(Math.min(15000, 500 * 2 ** attempt) * (0.75 + Math.random() / 2));
    }
  }

  let absent = "";
  function away(why) {                     // says that the server cannot be reached, or that it is back
    const banner = study.querySelector(".away");
    if (!banner) return;
    if (why) {
      banner.textContent = banner.dataset[why];
      banner.hidden = false;
    } else if (absent) {
      banner.textContent = banner.dataset.back;
      setTimeout(() => { if (!absent) banner.hidden = true; }, 2500);
    }
    absent = why;
  }

  function unfit() {                       // says, for a while, that something could not be understood
    const banner = study.querySelector(".away");
    banner.textContent = banner.dataset.unfit;
    banner.hidden = false;
    setTimeout(() => { if (!absent) banner.hidden = true; }, 8000);
  }

  function say(text) { announcer.textContent = ""; setTimeout(() => { announcer.textContent = text; }, 60); }

  // Saving answers, one after another, oldest first
  const unsent = () => Object.values(recall().unsent || {}).concat(forgotten);
  let forgotten = [];                      // what the browser would not remember
  let sending = null;

  function save(question, value) {
    const answer = { position, question, value, key: random() };
    remember((memory) => { memory.unsent[answer.key] = answer; });
    if (!(recall().unsent || {})[answer.key]) forgotten.push(answer);
    state("saving");
    deliver();
  }

  function random() {
    return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
  }

  function deliver() {
    sending ||= (async () => {
      try {
        for (let left = unsent(); left.length; left = unsent()) {
          const answer = left[0];
          const reply = await insist("answer", answer);
          remember((memory) => { delete memory.unsent[answer.key]; });
          forgotten = forgotten.filter((other) => other.key !== answer.key);
          if (!reply.ok && reply.html) { render(reply); return; }
          if (!reply.ok) { unfit(); continue; }
        }
        state("saved");
      } finally { sending = null; }
    })();
    return sending;
  }

  function state(now) {
    const saved = study.querySelector(".saved");
    if (!saved) return;
    if (now === "saved" && saved.dataset.state === "saving") say(saved.dataset.saved);
    saved.dataset.state = now;
    saved.querySelector("span").textContent = saved.dataset[now];
  }

  // Time on the page, while it can be seen
  let seconds = 0, since = performance.now();
  function clock() {
    const now = performance.now();
    if (since !== null) seconds += (now - since) / 1000;
    since = document.visibilityState === "visible" ? now : null;
  }
  function taken() { clock(); const all = Math.round(seconds * 100) / 100; return all; }
  function restart() { seconds = 0; since = document.visibilityState === "visible" ? performance.now() : null; }
  function pocket() {                      // a page that is closed or reloaded keeps its time
    clock();
    if (stage === "rating") remember((memory) => { memory.seconds = { position, seconds }; });
  }

  // Showing a page
  function render(reply, focus = "#heading") {
    if (reply.kind === "already_took_part" && token) { go("show"); return; }  // finished in another tab
    flush();                               // what was written while the reply was on its way belongs to the page left
    const moved = reply.stage !== stage || reply.position !== position;
    study.innerHTML = reply.html;
    root.lang = language = reply.language;
    root.dir = study.dir = reply.direction;
    document.title = reply.title;
    if (moved) {
      restart();
      remember((memory) => { delete memory.seconds; });
    }
    arrived(reply.stage, reply.position);
    if (moved) scrollTo(0, 0);
    const target = study.querySelector(focus);
    if (target) target.focus({ preventScroll: true });
  }

  function arrived(newStage, newPosition) {
    stage = newStage;
    position = newPosition;
    study.dataset.stage = stage;
    study.dataset.position = position;
    busy = false;
    const marks = study.querySelector("[data-do=marks]");
    if (marks) { marks.checked = storage.read("quantxai-marks") !== "off"; mark(marks); }
    const material = study.querySelector(".material");
    if (material) material.classList.toggle("tall", material.offsetHeight > innerHeight - 120);
    const address = study.querySelector(".address");
    if (address) address.value = link();
    for (const answer of unsent()) if (answer.position === position) put(answer.question, answer.value);
  }

  function put(question, value) {          // shows an answer without saving it
    const field = study.querySelector(`[data-question="${question}"]`);
    if (!field) return;
    const text = field.querySelector("textarea");
    if (text && text !== document.activeElement) text.value = value;
    for (const radio of field.querySelectorAll("input")) if (radio.value === value) radio.checked = true;
  }

  const link = () => `${location.origin}${location.pathname}?t=${encodeURIComponent(token)}`;

  async function go(what, request = {}, focus = "#heading") {
    if (busy) return;
    busy = true;
    study.setAttribute("aria-busy", "true");
    const reply = await insist(what, request);
    busy = false;
    study.removeAttribute("aria-busy");
    if (reply.token) {
      token = reply.token;
      history.replaceState(null, "", `?t=${encodeURIComponent(token)}`);
    }
    if (reply.html) render(reply, focus);
    else if (!reply.ok) unfit();
  }

  // Leaving a page of ratings
  function lacking(form) {
    let first = null;
    for (const field of form.querySelectorAll("[data-required]")) {
      const text = field.querySelector("textarea");
      const answered = text ? text.value.trim() : field.querySelector("input:checked");
      field.classList.toggle("lacking", !answered);
      field.querySelector(".missing").hidden = Boolean(answered);
      if (!answered) first ||= field;
    }
    return first;
  }

  async function leave(to) {
    const form = study.querySelector("[data-form=rating]");
    const pages = Number(form.dataset.pages);
    if (busy) return;
    if (to > position) {
      const field = lacking(form);
      if (field) {
        field.querySelector("input, textarea").focus();
        say(field.querySelector(".missing").textContent);
        return;
      }
    }
    flush();
    if (unsent().length || sending) { busy = true; await deliver(); busy = false; }
    if (stage !== "rating") return;        // the server said otherwise
    const request = { from: position, seconds: taken() };
    if (to < pages) await go("turn", { ...request, to });
    else await go("finish", request);
  }

  function check(form) {
    const field = lacking(form);
    if (field) {
      field.querySelector("input").focus();
      say(field.querySelector(".missing").textContent);
      return;
    }
    const answers = [...form.querySelectorAll("[data-check]")]
      .map((part) => Number(part.querySelector("input:checked").value));
    go("check", { answers, key: random() });
  }

  // Free text is saved when it is left, and every now and then while it is written
  let writing = null;
  function flush() {
    if (!writing) return;
    clearTimeout(writing.timer);
    const { field, last } = writing;
    writing = null;
    if (field.value !== last) { save(field.name, field.value); field.dataset.last = field.value; }
  }

  const choose = {
    enrol() {
      const names = ["PROLIFIC_PID", "STUDY_ID", "SESSION_ID"];
      const prolific = Object.fromEntries(names.map((key) => [key, query.get(key) || ""]));
      const key = random();                // the same for every try to send this
      const device = Math.min(screen.width, innerWidth) < 600 ? "phone" : "desktop";
      go("enrol", prolific.PROLIFIC_PID ? { device, key, prolific } : { device, key });
    },
    start() { go("start"); },
    back() { if (position > 0) leave(position - 1); },
    withdraw(button) {
      if (writing) clearTimeout(writing.timer);
      writing = null;
      forgotten = [];
      storage.write(name(), null);
      button.closest("dialog").close();
      busy = false;                        // nobody is kept by what still waits for the server
      go("withdraw");
    },
    open(button) {
      const dialog = study.querySelector(`#${button.dataset.dialog}`);
      dialog.showModal();
      dialog.querySelector("[data-first]").focus();
    },
    close(button) { button.closest("dialog").close(); },
    theme() {
      const dark = getComputedStyle(root).colorScheme.includes("dark");
      root.dataset.theme = dark ? "light" : "dark";
      storage.write("quantxai-theme", root.dataset.theme);
    },
    async copy(button) {
      const source = study.querySelector(button.dataset.from);
      const text = source.value || source.textContent;
      try { await navigator.clipboard.writeText(text); } catch {
        if (source.select) source.select(); else getSelection().selectAllChildren(source);
        document.execCommand("copy");      // where the page is not served by https
      }
      button.textContent = button.dataset.copied;
      say(button.dataset.copied);
    },
  };

  function mark(box) {
    box.closest(".page").classList.toggle("unmarked", !box.checked);
    storage.write("quantxai-marks", box.checked ? null : "off");
  }

  function onChange(event) {
    const { target } = event;
    if (target.dataset.do === "language") {
      if (stage === "notice") location.search = new URLSearchParams({ ...(token && { t: token }), lang: target.value });
      else go("language", { language: target.value }, "[data-do=language]");
    } else if (target.dataset.do === "marks") mark(target);
    else if (target.type === "radio") {
      const field = target.closest(".question");
      field.classList.remove("lacking");
      field.querySelector(".missing").hidden = true;
      if (stage === "rating") save(target.name, target.value);
    } else if (target.localName === "textarea") flush();
  }

  function onInput({ target }) {
    if (target.localName !== "textarea" || stage !== "rating") return;
    if (writing) clearTimeout(writing.timer);
    writing = { field: target, last: target.dataset.last ?? target.defaultValue, timer: setTimeout(flush, 1200) };
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || study.querySelector("dialog[open]")) return;
    const { target } = event;
    if (["TEXTAREA", "SELECT"].includes(target.tagName)) return;
    if (/^[1-9]$/.test(event.key)) {
      const field = target.closest(".question") || [...study.querySelectorAll("fieldset.question")]
        .find((other) => !other.querySelector("input:checked"));
      const radio = field && field.querySelectorAll("input[type=radio]")[Number(event.key) - 1];
      if (radio) { event.preventDefault(); radio.focus(); radio.click(); }
    } else if (event.key === "Enter" && target.type === "radio") {
      event.preventDefault();
      const fields = [...study.querySelectorAll(".question")];
      const next = fields[fields.indexOf(target.closest(".question")) + 1];
      const goal = next && (next.querySelector("input:checked") || next.querySelector("input, textarea"));
      if (goal) goal.focus(); else study.querySelector(".bar button.main").focus();
    }
  }

  async function revisit() {               // another tab or device may have gone on
    if (document.visibilityState !== "visible" || !token || busy || sending || unsent().length || writing) return;
    try {
      const reply = await send("show", {});
      if (busy || sending || !reply.stage) return;
      if (reply.stage !== stage || reply.position !== position) render(reply);
      else for (const [question, value] of Object.entries(reply.answers || {})) put(question, value);
    } catch { /* nobody waits for this */ }
  }

  function begin() {
    study = document.getElementById("study");
    announcer = document.getElementById("announcer");
    const { seconds: kept } = recall();
    remember((memory) => { delete memory.seconds; });
    arrived(study.dataset.stage, Number(study.dataset.position));
    if (kept && stage === "rating" && kept.position === position) seconds = kept.seconds;
    study.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-do]");
      if (button && choose[button.dataset.do]) choose[button.dataset.do](button);
    });
    study.addEventListener("submit", (event) => {
      event.preventDefault();
      if (event.target.dataset.form === "check") check(event.target); else leave(position + 1);
    });
    study.addEventListener("change", onChange);
    study.addEventListener("input", onInput);
    study.addEventListener("keydown", onKey);
    document.addEventListener("visibilitychange", () => { if (document.hidden) pocket(); else { clock(); revisit(); } });
    addEventListener("pagehide", () => { flush(); pocket(); });
    addEventListener("pageshow", (event) => { if (event.persisted) revisit(); });
    if (unsent().length) { state("saving"); deliver(); }
    if (study.querySelector("[data-kind=unavailable]")) go("show");  // opened while the database was away
    // Gradio's front end would say that the page is in the browser's language.
    new MutationObserver(() => { if (root.lang !== language) root.lang = language; })
      .observe(root, { attributeFilter: ["lang"] });
    settle();
  }

  function settle() {                      // the page moves into Gradio's component as soon as that is there
    const move = () => {
      const host = document.querySelector("gradio-app #host");
      if (!host) return false;
      const active = document.activeElement;
      const inside = study.contains(active);
      if (host.moveBefore) host.moveBefore(study, null); else host.append(study);
      host.closest("main").setAttribute("role", "none");  // the page has its own
      if (inside && document.activeElement !== active) active.focus({ preventScroll: true });
      return true;
    };
    if (move()) return;
    const watch = new MutationObserver(() => { if (move()) watch.disconnect(); });
    watch.observe(document.querySelector("gradio-app"), { childList: true, subtree: true });
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin); else begin();
})();
