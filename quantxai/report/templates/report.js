"use strict";
// Without this script every item is shown; with it, a few or one at a time, two variants side by side.
// A link to items names what it chooses: #items/EXPLAINER/DATASET&right=VARIANT&outcome=METRIC shows the items
// whose outcome differs; what is chosen by hand is written there, too, so that it can be kept or passed on.
const PAGE = 10;
let last = null;
const sections = [...document.querySelectorAll("details.section")];
const followers = [];
for (const section of sections) {
  const form = section.querySelector("form");
  const { left, right, outcome, show, text, single } = form.elements;
  const items = [...section.querySelectorAll(".item")];
  const marks = [...section.querySelectorAll("thead [data-v]")];
  const cells = items.map((item) => [...item.querySelectorAll("[data-o]")]);
  const words = [...section.querySelectorAll(".words [data-v]")];
  const texts = items.map((item) => item.textContent.toLowerCase());
  const paging = section.querySelector(".paging");
  const page = section.dataset.layout === "facts" ? 3 * PAGE : PAGE;
  let shown = page, place = 0, matches = [];
  const leftmost = () => String(left ? left.selectedIndex : 0);
  const chosen = () => (left && right.value !== "" ? String(right.selectedIndex - 1) : "");
  const fits = (index) => {
    const base = cells[index].find((cell) => cell.dataset.v === leftmost());
    const asked = cells[index].filter((cell) => chosen() === "" || cell.dataset.v === chosen());
    const places = outcome.value === "" ? [...outcome.options].map((_, i) => i).slice(0, -1) : [outcome.selectedIndex - 1];
    const known = (cell, at) => (cell && "yn".includes(cell.dataset.o[at] ?? "-") ? cell.dataset.o[at] : "");
    const wanted = {
      "": () => asked.length > 0 || chosen() === "",
      f: () => asked.some((cell) => cell.dataset.o.endsWith("f")),
      changed: () => asked.some((cell) => places.some((at) =>
        known(base, at) && known(cell, at) && known(base, at) !== known(cell, at))),
    }[show.value] ?? (() => asked.some((cell) => places.some((at) => known(cell, at) === show.value)));
    return wanted() && texts[index].includes(text.value.trim().toLowerCase());
  };
  const update = () => {
    matches = items.map((_, index) => index).filter(fits);
    place = Math.max(0, Math.min(place, matches.length - 1));
    const visible = new Set(single.checked ? matches.slice(place, place + 1) : matches.slice(0, shown));
    items.forEach((item, index) => { item.hidden = !visible.has(index); });
    for (const cell of [...cells.flat(), ...marks, ...words]) {
      cell.hidden = chosen() !== "" && cell.dataset.v !== chosen() && cell.dataset.v !== leftmost();
      cell.classList.toggle("left", cell.dataset.v === leftmost());
    }
    section.classList.toggle("alone", single.checked);
    form.querySelector("output").textContent = single.checked
      ? `${matches.length && place + 1} of ${matches.length}`
      : `${visible.size} of ${matches.length} shown`;
    paging.hidden = single.checked || matches.length <= shown;
  };
  // Replaced, not added: going back leads to where one came from, not through every choice made on the way.
  const keep = () => {
    const parts = [["left", left && left.selectedIndex > 0 ? left.value : ""], ["right", right ? right.value : ""],
      ["outcome", outcome.value], ["show", show.value === "changed" && outcome.value ? "" : show.value], ["text", text.value.trim()]];
    const told = parts.filter(([, value]) => value).map(([key, value]) => `&${key}=${encodeURIComponent(value)}`);
    history.replaceState(null, "", `#${section.id}${told.join("")}`);
  };
  const alone = () => {
    update();
    if (matches.length) history.replaceState(null, "", `#${items[matches[place]].id}`);
  };
  const step = (by) => {
    place = single.checked ? place + by : 0;
    single.checked = true;
    alone();
  };
  const reveal = () => {
    for (const other of sections) other.open = other === section;
    last = { step, form };
  };
  const choose = (parts) => {
    form.reset();
    shown = page;
    place = 0;
    const asked = new URLSearchParams(parts);
    for (const field of [left, right, outcome, show, text]) {
      const value = field && asked.get(field.name);
      if (value && (field === text || [...field.options].some((option) => option.value === value))) field.value = value;
    }
    if (outcome.value && !show.value) show.value = "changed";
    reveal();
    update();
    section.scrollIntoView({ behavior: "instant" });
    section.querySelector("summary").focus({ preventScroll: true });
  };
  const singleOut = (item) => {
    form.reset();
    single.checked = true;
    reveal();
    update();
    place = items.indexOf(item);
    alone();
    item.scrollIntoView({ behavior: "instant" });
  };
  followers.push((id) => {
    const item = document.getElementById(id);
    if (items.includes(item)) singleOut(item);
    else if (id === section.id || id.startsWith(`${section.id}&`)) choose(id.slice(section.id.length + 1));
  });
  form.addEventListener("input", () => {
    const before = matches[place];
    shown = page;
    matches = items.map((_, index) => index).filter(fits);
    place = Math.max(0, matches.indexOf(before));
    if (single.checked) { alone(); return; }
    update();
    keep();
  });
  // Not on the form's own event: links reset it, too, and then choose.
  form.querySelector("[type=reset]").addEventListener("click", () => setTimeout(() => { shown = page; place = 0; update(); keep(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
  section.addEventListener("pointerdown", () => { last = { step, form }; });
  section.addEventListener("focusin", () => { last = { step, form }; });
  section.querySelector(".previous").addEventListener("click", () => step(-1));
  section.querySelector(".next").addEventListener("click", () => step(1));
  section.querySelector(".moreitems").addEventListener("click", () => { shown += 2 * page; update(); });
  section.querySelector(".allitems").addEventListener("click", () => { shown = Infinity; update(); });
  form.hidden = false;
  update();
}
const follow = () => {
  const raw = location.hash.slice(1);
  for (const lead of followers) lead(raw);
  const target = document.getElementById(raw);
  for (let at = target; at; at = at.parentElement) {
    if (at.localName === "details" && !at.open) { at.open = true; target.scrollIntoView({ behavior: "instant" }); }
  }
};
window.addEventListener("hashchange", follow);
follow();
document.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const typing = event.target.closest("select, input:not([type=checkbox]), .scroll") !== null;
  if (!by || !last || !last.form.elements.single.checked || typing || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  last.step(by);
});
// On paper nothing can be unfolded.
const folded = () => document.querySelectorAll("details.folded:not([open])");
let unfolded = [];
window.addEventListener("beforeprint", () => { unfolded = [...folded()]; for (const part of unfolded) part.open = true; });
window.addEventListener("afterprint", () => { for (const part of unfolded) part.open = false; unfolded = []; });
