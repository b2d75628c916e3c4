"use strict";
// Without this script every item is shown; with it, a few or one at a time, two variants side by side.
const PAGE = 10;
let last = null;
const sections = [...document.querySelectorAll("details.section")];
for (const section of sections) {
  const form = section.querySelector("form");
  const { left, right, outcome, text, single } = form.elements;
  const items = [...section.querySelectorAll(".item")];
  const marks = [...section.querySelectorAll("thead [data-v]")];
  const cells = items.map((item) => [...item.querySelectorAll("[data-o]")]);
  const words = [...section.querySelectorAll(".words [data-v]")];
  const texts = items.map((item) => item.textContent.toLowerCase());
  const paging = section.querySelector(".paging");
  const page = section.dataset.layout === "facts" ? 3 * PAGE : PAGE;
  let shown = page, place = 0, matches = [];
  const leftmost = () => (left ? left.value : "0");
  const hidden = (variant) => left && right.value !== "" && variant !== right.value && variant !== left.value;
  const fits = (index) => {
    const base = cells[index].find((cell) => cell.dataset.v === leftmost());
    const asked = cells[index].filter((cell) => (left && right.value !== "" ? cell.dataset.v === right.value : true));
    const wanted = outcome.value === "c"
      ? asked.some((cell) => base && cell.dataset.o !== base.dataset.o)
      : asked.some((cell) => cell.dataset.o.includes(outcome.value));
    return wanted && texts[index].includes(text.value.trim().toLowerCase());
  };
  const update = () => {
    matches = items.map((_, index) => index).filter(fits);
    place = Math.max(0, Math.min(place, matches.length - 1));
    const visible = new Set(single.checked ? matches.slice(place, place + 1) : matches.slice(0, shown));
    items.forEach((item, index) => { item.hidden = !visible.has(index); });
    for (const cell of [...cells.flat(), ...marks, ...words]) {
      cell.hidden = hidden(cell.dataset.v);
      cell.classList.toggle("left", cell.dataset.v === leftmost());
    }
    section.classList.toggle("alone", single.checked);
    form.querySelector("output").textContent = single.checked
      ? `${matches.length && place + 1} of ${matches.length}`
      : `${visible.size} of ${matches.length} shown`;
    paging.hidden = single.checked || matches.length <= shown;
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
  const show = (item) => {
    form.reset();
    for (const other of sections) other.open = other === section;
    single.checked = true;
    place = items.indexOf(item);
    last = { step, form };
    alone();
    item.scrollIntoView({ behavior: "instant" });
  };
  form.addEventListener("input", () => {
    const before = matches[place];
    shown = page;
    matches = items.map((_, index) => index).filter(fits);
    place = Math.max(0, matches.indexOf(before));
    if (single.checked) alone(); else update();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  section.addEventListener("pointerdown", () => { last = { step, form }; });
  section.addEventListener("focusin", () => { last = { step, form }; });
  section.querySelector(".previous").addEventListener("click", () => step(-1));
  section.querySelector(".next").addEventListener("click", () => step(1));
  section.querySelector(".moreitems").addEventListener("click", () => { shown += 2 * page; update(); });
  section.querySelector(".allitems").addEventListener("click", () => { shown = Infinity; update(); });
  const follow = () => {
    const item = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (items.includes(item)) show(item);
  };
  window.addEventListener("hashchange", follow);
  form.hidden = false;
  update();
  follow();
}
document.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const typing = event.target.closest("select, input:not([type=checkbox]), .scroll") !== null;
  if (!by || !last || !last.form.elements.single.checked || typing || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  last.step(by);
});
