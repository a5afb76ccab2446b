// Adds to pages that are whole without it: completion, answers without loading the page anew,
// copying, and keys. Nothing of what it does is needed.

const input = () => document.getElementById("q");
const offers = () => document.getElementById("offers");
const said = document.getElementById("said");

// --- answers in place of the old ones ---------------------------------------------------------

let running = null;

/** Whether an address is a search, so that the rest of the page can stay. */
function isSearch(url) {
  return url.origin === location.origin && url.pathname === "/";
}

/** What is asked for, without the place on the page. */
function askedBy(url) {
  return url.pathname + url.search;
}

let shown = askedBy(location);

/** What stays as a person left it: the layer of the body, and what they opened. */
function remember() {
  return {
    layer: document.querySelector('input[name="layer"]:checked')?.id,
    open: [...document.querySelectorAll("aside details[open]")].map((one) => one.id),
    focus: document.activeElement?.id,
    cursor: input()?.selectionStart,
  };
}

function restore(left, askedHere) {
  const layer = left.layer && document.getElementById(left.layer);
  if (layer && !askedHere) layer.checked = true;
  for (const id of left.open) document.getElementById(id)?.setAttribute("open", "");
  const focus = left.focus && document.getElementById(left.focus);
  if (focus) focus.focus({ preventScroll: true });
  if (focus === input() && focus) focus.setSelectionRange(left.cursor, left.cursor);
}

/** Show the answer at an address. */
async function show(url, { push = true, typed = false } = {}) {
  running?.abort();
  running = new AbortController();
  const left = remember();
  const old = document.getElementById("main");
  old.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(url, { signal: running.signal, headers: { Accept: "text/html" } });
    if (answer.redirected || !answer.headers.get("content-type")?.startsWith("text/html")) {
      location.assign(url);
      return;
    }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    old.replaceWith(document.adoptNode(page.getElementById("main")));
    const top = page.querySelector("header.top");
    if (top) document.querySelector("header.top").replaceWith(document.adoptNode(top));
    document.title = page.title;
    shown = askedBy(new URL(url, location.href));
    if (push) history.pushState(null, "", url);
    dress();
    restore(left, typed || !push);
    const counts = document.querySelector("#counts, .wrong, .nothing, .counts");
    said.textContent = counts ? counts.textContent.replace(/\s+/g, " ").trim() : "";
  } catch (error) {
    if (error.name !== "AbortError") location.assign(url);
  }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const url = new URL(link.getAttribute("href"), location.href);
  if (!isSearch(url) || location.pathname !== "/" || link.hasAttribute("download")) return;
  if (url.hash && askedBy(url) === shown) return; // a place on this page
  event.preventDefault();
  show(url, { typed: !url.search || link.closest(".examples, .wrong") !== null });
  if (link.closest(".turn")) scrollTo({ top: 0 });
});

document.addEventListener("submit", (event) => {
  if (event.target.id !== "ask" || location.pathname !== "/") return;
  event.preventDefault();
  close();
  const url = new URL("/", location.href);
  url.search = new URLSearchParams(new FormData(event.target));
  show(url, { typed: true });
});

addEventListener("popstate", () => {
  if (askedBy(location) !== shown) show(location.href, { push: false });
});

// --- completion (ARIA combobox with a list) ----------------------------------------------------

let chosen = -1;
let found = [];
let asking = null;
let pause = 0;

function close() {
  clearTimeout(pause);
  asking?.abort();
  const list = offers();
  if (!list) return;
  list.hidden = true;
  list.replaceChildren();
  found = [];
  chosen = -1;
  input().setAttribute("aria-expanded", "false");
  input().removeAttribute("aria-activedescendant");
}

async function complete() {
  asking?.abort();
  asking = new AbortController();
  const field = input();
  const query = new URLSearchParams({ text: field.value, cursor: field.selectionStart, limit: 8 });
  try {
    const answer = await fetch(`${field.form.dataset.complete}?${query}`, { signal: asking.signal });
    if (!answer.ok) return close();
    const texts = await answer.json();
    if (field === document.activeElement) open(texts);
  } catch (error) {
    if (error.name !== "AbortError") close();
  }
}

function open(texts) {
  found = texts;
  chosen = -1;
  const list = offers();
  list.replaceChildren(
    ...texts.map((one, place) => {
      const item = document.createElement("li");
      item.id = `offer-${place}`;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", "false");
      const words = document.createElement("span");
      words.textContent = one.text;
      const label = document.createElement("span");
      label.textContent =
        one.count === null ? one.label : `${one.label} · ${one.count.toLocaleString("en")}`;
      item.append(words, label);
      item.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        take(place);
      });
      return item;
    }),
  );
  list.hidden = texts.length === 0;
  input().setAttribute("aria-expanded", String(texts.length > 0));
  input().removeAttribute("aria-activedescendant");
}

function point(place) {
  // Beyond either end nothing is chosen, so that what was typed can be sent.
  chosen = place < -1 ? found.length - 1 : place < found.length ? place : -1;
  [...offers().children].forEach((item, at) => item.setAttribute("aria-selected", String(at === chosen)));
  const item = offers().children[chosen];
  if (!item) return input().removeAttribute("aria-activedescendant");
  item.scrollIntoView({ block: "nearest" });
  input().setAttribute("aria-activedescendant", item.id);
}

function take(place) {
  const field = input();
  const one = found[place];
  const rest = field.value.slice(one.end ?? field.selectionStart);
  const before = `${field.value.slice(0, one.start)}${one.text}${rest.startsWith(" ") ? "" : " "}`;
  field.value = before + rest;
  field.setSelectionRange(before.length, before.length);
  close();
}

function typed() {
  clearTimeout(pause);
  pause = setTimeout(complete, 90);
}

function keyed(event) {
  if (event.isComposing) return;
  const shown = found.length > 0;
  if (event.key === "ArrowDown" && !shown) complete();
  else if (event.key === "ArrowDown") point(chosen + 1);
  else if (event.key === "ArrowUp" && shown) point(chosen - 1);
  else if (event.key === "Enter" && chosen >= 0) take(chosen);
  else if (event.key === "Tab" && chosen >= 0 && !event.shiftKey) take(chosen);
  else if (event.key === "Escape" && shown) close();
  else return;
  event.preventDefault();
}

// --- what needs a script -----------------------------------------------------------------------

async function copy(button) {
  const text = "copyLink" in button.dataset ? location.href : button.dataset.copy;
  const before = button.textContent;
  button.textContent = (await copied(text)) ? "Copied" : "Not copied";
  said.textContent = button.textContent;
  setTimeout(() => (button.textContent = before), 1600);
}

/** Browsers give the clipboard to https and to this machine alone. */
async function copied(text) {
  if (navigator.clipboard && isSecureContext) {
    return navigator.clipboard.writeText(text).then(() => true, () => false);
  }
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "vh";
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

/** Give a page that has just come what only a script can do. */
function dress() {
  const field = input();
  if (field) {
    field.setAttribute("role", "combobox");
    field.setAttribute("aria-autocomplete", "list");
    field.setAttribute("aria-expanded", "false");
    field.setAttribute("aria-controls", "offers");
    field.addEventListener("input", typed);
    field.addEventListener("keydown", keyed);
    field.addEventListener("blur", close);
  }
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
  const pointed = document.getElementById("pointed");
  for (const region of document.querySelectorAll(".region")) {
    const name = () => (pointed.textContent = region.querySelector("title").textContent);
    region.addEventListener("pointerenter", name);
    region.addEventListener("focus", name);
    region.addEventListener("pointerleave", () => (pointed.textContent = ""));
  }
}

document.addEventListener("keydown", (event) => {
  const writing = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey && input()) {
    event.preventDefault();
    input().focus();
    input().select();
  }
  if (event.key === "Escape") {
    for (const one of document.querySelectorAll("details.pop[open]")) {
      one.open = false;
      one.querySelector("summary").focus();
    }
  }
});
// Opening a form is the wish to fill it in.
document.addEventListener("toggle", (event) => {
  if (event.target.matches("details.pop[open]")) event.target.querySelector("input:not([type=hidden])")?.focus();
}, true);
document.addEventListener("click", (event) => {
  for (const one of document.querySelectorAll("details.pop[open]")) {
    if (!one.contains(event.target)) one.open = false;
  }
});

dress();
if (input() && location.pathname === "/" && !location.search) input().focus();
