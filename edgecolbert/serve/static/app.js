// The search page. Everything comes from this server; texts of documents become text nodes and never HTML.
"use strict";

const HITS = 10;
const MOST_HITS = 100;
// Milliseconds without a key before a search is sent, and before a filter is read, which is of no use half written.
const TYPING = 30;
const FILTERING = 250;
// How long the state has to stand before the address takes it over, and before an open document is marked anew.
const KEEPING = 400;
// How long the count of results has to stand before it is read out.
const SPEAKING = 700;

const byId = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en");

/** An element with properties, and with children that are elements or plain texts. */
function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") element.className = value;
    else if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

/** Parts of a text, `mark` around those that matched. */
function marked(parts) {
  return parts.map((part) => (part.level ? make("mark", { class: `m${part.level}` }, part.text) : part.text));
}

const counted = (n, one, more = `${one}s`) => `${numbers.format(n)} ${n === 1 ? one : more}`;
const shownValue = (value) => (typeof value === "string" ? value || "(empty)" : JSON.stringify(value));
const shownValues = (value) => (Array.isArray(value) ? value.map(shownValue).join(", ") : shownValue(value));

// ---------------------------------------------------------------- What is asked for

const state = { query: "", mode: "", filter: "", folder: null, facets: [], k: HITS, document: null };
let info = null;
let fields = { fields: [], folders: null };

/** All conditions, each a filter in the form of the command line; without those of one field, to count its values. */
function filters({ withoutField = null, withoutFolder = false } = {}) {
  const conditions = [];
  if (state.filter) conditions.push(state.filter);
  if (state.folder && !withoutFolder) conditions.push(state.folder.filter);
  const groups = new Map();
  for (const { field, filter } of state.facets) {
    if (field !== withoutField) groups.set(field, [...(groups.get(field) ?? []), filter]);
  }
  return [...conditions, ...[...groups.values()].map((chosen) => chosen.join(" or "))];
}

/** The address of the page as it is now, behind the "#", where the server does not see it. */
function address(changes = {}) {
  const now = { ...state, ...changes };
  const parts = new URLSearchParams();
  if (now.query) parts.set("q", now.query);
  if (info && now.mode !== info.default_mode) parts.set("mode", now.mode);
  if (now.filter) parts.set("filter", now.filter);
  if (now.folder) parts.set("folder", JSON.stringify(now.folder));
  if (now.facets.length) parts.set("facets", JSON.stringify(now.facets));
  if (now.document) parts.set("document", JSON.stringify(now.document));
  return `#${parts}`;
}

function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const json = (name, fallback) => {
    try {
      return JSON.parse(parts.get(name)) ?? fallback;
    } catch {
      return fallback;
    }
  };
  const isCondition = (found) => found && typeof found.label === "string" && typeof found.filter === "string";
  const folder = json("folder", null);
  const facets = json("facets", []);
  const opened = json("document", null);
  state.query = parts.get("q") ?? "";
  state.mode = info.modes.includes(parts.get("mode")) ? parts.get("mode") : info.default_mode;
  state.filter = parts.get("filter") ?? "";
  state.folder = isCondition(folder) ? folder : null;
  state.facets = Array.isArray(facets) ? facets.filter((facet) => isCondition(facet) && facet.field) : [];
  state.document = opened && typeof opened.id === "string" ? opened : null;
  state.k = HITS;
}

let keeping = 0;
/** After a pause: browsers refuse to have the address changed with every key. */
function keepAddress() {
  clearTimeout(keeping);
  keeping = setTimeout(() => history.replaceState(null, "", address()), KEEPING);
}

// ---------------------------------------------------------------- The server

/** The server said no, and why. */
class Refused extends Error {}
/** The server said nothing; the page says so already. */
class Unreachable extends Error {}

async function get(path, parameters = {}, signal = undefined) {
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== null && one !== "") asked.append(name, one);
  }
  let response;
  try {
    response = await fetch(`${path}?${asked}`, { signal, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    alarm("The server does not answer. It was stopped, or this computer is busy.");
    throw new Unreachable();
  }
  if (response.ok) {
    alarm("");
    return response.json();
  }
  const found = await response.json().catch(() => null);
  const message = found?.error?.message ?? `The server answered ${response.status}.`;
  if (response.status !== 400 && response.status !== 404) alarm(message);
  throw new Refused(message);
}

function unlessKnown(error) {
  if (error.name !== "AbortError" && !(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
}

/** One request of a kind at a time: a new one ends the one before. */
function latest() {
  let controller = new AbortController();
  const stop = () => controller.abort();
  const ask = (path, parameters) => {
    stop();
    controller = new AbortController();
    return get(path, parameters, controller.signal);
  };
  return { ask, stop };
}

function alarm(message) {
  const place = byId("alert");
  place.textContent = message;
  place.hidden = !message;
}

let speaking = 0;
function say(message) {
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    byId("status").textContent = message;
  }, SPEAKING);
}

// ---------------------------------------------------------------- Searching

const searching = latest();
let waiting = 0;

function searchSoon(delay = TYPING) {
  clearTimeout(waiting);
  waiting = setTimeout(search, delay);
}

async function search() {
  clearTimeout(waiting);
  keepAddress();
  const filter = filters();
  byId("hits").setAttribute("aria-busy", "true");
  const began = performance.now();
  try {
    if (state.query.trim()) {
      const found = await searching.ask("/api/search", { query: state.query, mode: state.mode, filter, k: state.k });
      showHits(found, performance.now() - began);
    } else if (filter.length) {
      showListed(await searching.ask("/api/documents", { filter, k: state.k }));
    } else {
      searching.stop();
      showWelcome();
    }
  } catch (error) {
    unlessKnown(error);
    if (error.name === "AbortError") return; // the next one is under way
    if (error instanceof Refused) showEmpty("This cannot be searched for.", error.message);
  }
  byId("hits").removeAttribute("aria-busy");
}

function showHits(found, took) {
  const n = found.hits.length;
  const words = found.more ? `Best ${n} results` : n ? counted(n, "result") : "No results";
  list(found.hits.map(hitItem), words, found.more);
  byId("took").textContent = `${Math.max(1, Math.round(took))} ms`;
  if (!n) showEmpty("Nothing found.", hint());
  markAgain(found.hits);
  say(n ? `${words} for ${state.query}` : `No results for ${state.query}`);
  document.title = `${state.query} · edgecolbert`;
}

function hint() {
  if (filters().length) return "Nothing that your filters select matches. Take one away.";
  if (state.mode === "lexical") return "No document has these words. Search by meaning instead.";
  return "Try other words.";
}

function showListed(found) {
  const more = found.count > found.documents.length;
  list(found.documents.map(listedItem), counted(found.count, "document"), more);
  if (!found.count) showEmpty("No documents.", "Nothing that your filters select is there. Take one away.");
  say(counted(found.count, "document"));
  document.title = "Documents · edgecolbert";
}

function showWelcome() {
  list([], counted(info.documents, "document"), false);
  showEmpty(
    info.documents ? "Type to search." : "There are no documents yet.",
    info.documents ? "Or choose a folder or a filter to look around." : "edgecolbert index FOLDER --db FILE adds some.",
  );
  document.title = "Search · edgecolbert";
}

function list(items, words, more) {
  // The focus stays where it was in the list, however the results changed.
  const focused = titles().indexOf(document.activeElement);
  byId("hits").replaceChildren(...items);
  byId("empty").hidden = true;
  byId("count").textContent = words;
  byId("took").textContent = "";
  byId("more").hidden = !more || state.k >= MOST_HITS;
  if (focused >= 0) (titles()[Math.min(focused, items.length - 1)] ?? byId("query")).focus();
}

function showEmpty(first, second) {
  byId("hits").replaceChildren();
  byId("more").hidden = true;
  byId("empty").replaceChildren(make("p", {}, first), make("p", {}, second));
  byId("empty").hidden = false;
}

const STAGES = { late: "meaning", lexical: "words" };

function hitItem(hit) {
  const { snippet } = hit;
  const ranks = Object.entries(hit.ranks)
    .map(([stage, rank]) => `${STAGES[stage] ?? stage} ${rank}`)
    .join(" · ");
  const about = make("p", { class: "about" }, make("span", {}, place(hit)));
  if (ranks) {
    about.append(make("span", { class: "ranks", title: `Score ${hit.score.toFixed(4)}. Rank in each search.` }, ranks));
  }
  const text = make("p", { class: "snippet", dir: "auto", lang: "" });
  const { heading, rest: body } = split(snippet, hit.title);
  text.append(snippet.cut_before ? "… " : "", ...marked(body), snippet.cut_after ? " …" : "");
  return item({ id: hit.id, start: hit.passage.start, end: hit.passage.end }, heading, about, text);
}

/** The parts of a heading, and of the rest of a snippet; where the title is no such heading, it has no parts. */
function split(snippet, title) {
  const whole = snippet.parts.map((part) => part.text).join("");
  const heading = snippet.start === 0 ? /^(#{1,6}\s+)?([^\n]*)\n+/.exec(whole) : null;
  if (!heading || heading[2] !== title) return { heading: [{ text: title, level: 0 }], rest: snippet.parts };
  const from = heading[1]?.length ?? 0;
  return { heading: cut(snippet.parts, from, from + title.length), rest: cut(snippet.parts, heading[0].length, whole.length) };
}

function cut(parts, first, last) {
  let place = 0;
  return parts.flatMap(({ text, level }) => {
    const kept = text.slice(Math.max(0, first - place), Math.max(0, last - place));
    place += text.length;
    return kept ? [{ text: kept, level }] : [];
  });
}

function listedItem(found) {
  const about = make("p", { class: "about" }, make("span", {}, place(found)));
  const text = make("p", { class: "snippet", dir: "auto", lang: "" }, found.excerpt, found.cut ? " …" : "");
  return item({ id: found.id, start: null, end: null }, [{ text: found.title, level: 0 }], about, text);
}

function place(found) {
  const where = fields.folders && found.metadata[fields.folders];
  return typeof where === "string" ? where : found.id;
}

function item(opened, title, ...rest) {
  const link = make("a", { href: address({ document: opened }) }, make("bdi", {}, ...marked(title)));
  link.addEventListener("click", (event) => {
    // With these keys the browser opens another tab, which reads all of it from the address.
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    openDocument(opened, link);
  });
  const entry = make("li", { class: "hit" }, make("h2", {}, link), ...rest);
  entry.dataset.id = opened.id;
  if (state.document?.id === opened.id) entry.classList.add("open");
  return entry;
}

// ---------------------------------------------------------------- The document that is open

const opening = latest();
let cameFrom = null;
let matchHere = -1;

async function openDocument(opened, from = null, { start = null, focus = true } = {}) {
  cameFrom = from ?? cameFrom;
  state.document = opened;
  let found;
  try {
    found = await opening.ask(`/api/documents/${encodeURIComponent(opened.id)}`, {
      query: state.query,
      mode: state.mode,
      start,
      passage_start: opened.start,
      passage_end: opened.end,
    });
  } catch (error) {
    unlessKnown(error);
    if (error.name === "AbortError") return;
    closeDocument();
    if (error instanceof Refused) alarm(error.message);
    return;
  }
  keepAddress();
  showDocument(found, start);
  for (const entry of document.querySelectorAll(".hit")) entry.classList.toggle("open", entry.dataset.id === opened.id);
  if (focus) byId("document-title").focus();
}

function showDocument(found, start) {
  byId("document-title").replaceChildren(make("bdi", {}, found.title));
  const rows = Object.entries(found.metadata)
    .filter(([name]) => name !== "title")
    .flatMap(([name, value]) => [make("dt", {}, name), make("dd", { dir: "auto" }, shownValues(value))]);
  byId("document-data").replaceChildren(...rows);
  byId("document-text").replaceChildren(
    ...found.sections.map((section) => make("span", section.passage ? { class: "passage" } : {}, ...marked(section.parts))),
  );
  const why = byId("why");
  why.hidden = !state.query.trim() || Boolean(info.problem);
  const scheme = document.documentElement.dataset.scheme ?? "auto";
  why.href = `/why?${new URLSearchParams({ query: state.query, id: found.id, scheme })}`;
  for (const [button, shown, from] of [
    ["earlier", found.start > 0, Math.max(0, found.start - info.limits.window_characters)],
    ["later", found.end < found.characters, found.end],
  ]) {
    byId(button).hidden = !shown;
    byId(button).onclick = () => openDocument(state.document, null, { start: from });
  }
  const n = byId("document-text").querySelectorAll("mark").length;
  byId("next-match").hidden = n === 0;
  byId("match-place").textContent = n ? counted(n, "match", "matches") : "";
  matchHere = -1;
  byId("document").hidden = false;
  const body = byId("document-body");
  body.scrollTop = 0;
  const passage = body.querySelector(".passage");
  if (passage && start === null) {
    const first = passage.querySelector("mark.m3, mark") ?? passage;
    const room = body.clientHeight;
    const depth = first.getBoundingClientRect().top - body.getBoundingClientRect().top;
    if (depth > room * 0.7) body.scrollTop = depth - room * 0.3;
  }
}

let marking = 0;
/** The open document with what matches the query as it is now. */
function markAgain(hits) {
  clearTimeout(marking);
  if (!state.document) return;
  marking = setTimeout(() => {
    if (!state.document) return;
    const { id } = state.document;
    const hit = hits.find((other) => other.id === id);
    openDocument({ id, start: hit?.passage.start ?? null, end: hit?.passage.end ?? null }, null, { focus: false });
  }, KEEPING);
}

function nextMatch() {
  const all = [...byId("document-text").querySelectorAll("mark")];
  if (!all.length) return;
  all[matchHere]?.classList.remove("here");
  matchHere = (matchHere + 1) % all.length;
  all[matchHere].classList.add("here");
  all[matchHere].scrollIntoView({ block: "center" });
  byId("match-place").textContent = `match ${matchHere + 1} of ${all.length}`;
}

function closeDocument() {
  state.document = null;
  byId("document").hidden = true;
  for (const entry of document.querySelectorAll(".hit.open")) entry.classList.remove("open");
  keepAddress();
  const back = cameFrom?.isConnected ? cameFrom : titles()[0] ?? byId("query");
  cameFrom = null;
  back.focus();
}

// ---------------------------------------------------------------- Filters

const checking = latest();
let filterWaiting = 0;

async function readFilter() {
  const text = byId("filter").value.trim();
  const note = byId("filter-note");
  const input = byId("filter");
  try {
    const found = await checking.ask("/api/documents", { filter: text, k: 1 });
    input.removeAttribute("aria-invalid");
    note.textContent = text ? `${counted(found.count, "document")} selected` : "";
    if (!text) note.append("Metadata, as on the command line: ", make("code", {}, 'tags contains "x"'));
  } catch (error) {
    unlessKnown(error);
    if (error instanceof Refused) {
      input.setAttribute("aria-invalid", "true");
      note.textContent = error.message;
    }
    return;
  }
  if (text === state.filter) return;
  state.filter = text;
  narrowed();
}

/** After a filter, folder or facet was chosen: search again, and count again. */
function narrowed() {
  state.k = HITS;
  showChips();
  search();
  count();
}

function showChips() {
  const chips = state.facets.map((facet) => chip(`${facet.field}: ${facet.label}`, () => toggleFacet(facet)));
  if (state.folder) chips.unshift(chip(state.folder.label, () => chooseFolder(null)));
  byId("chips").replaceChildren(...chips.map((button) => make("li", {}, button)));
}

function chip(text, remove) {
  const button = make("button", { class: "chip", type: "button", "aria-label": `Remove filter ${text}` }, make("span", {}, text));
  button.addEventListener("click", () => {
    remove();
    byId("query").focus();
  });
  return button;
}

const sameFacet = (one, other) => one.field === other.field && one.filter === other.filter;

function toggleFacet(facet) {
  const without = state.facets.filter((other) => !sameFacet(other, facet));
  state.facets = without.length < state.facets.length ? without : [...state.facets, facet];
  narrowed();
}

function chooseFolder(folder) {
  state.folder = folder && state.folder?.filter === folder.filter ? null : folder;
  narrowed();
}

let counts = new AbortController();

/** Count folders and the values of fields, one after the other, so that searches come in between. */
async function count() {
  counts.abort();
  counts = new AbortController();
  const { signal } = counts;
  try {
    if (fields.folders) await countFolders(signal);
    for (const field of fields.fields) await countValues(field, signal);
  } catch (error) {
    unlessKnown(error);
  }
}

async function countValues(field, signal) {
  const filter = filters({ withoutField: field });
  const found = await get("/api/facets", { field, filter, k: 8 }, signal);
  const id = `facet-${fields.fields.indexOf(field)}`;
  let group = byId(id);
  if (!group) {
    group = make("details", { id, open: true }, make("summary", {}, field), make("ul", {}));
    byId("facets").append(group);
  }
  const entries = found.values.map((entry) => ({ field, label: shownValue(entry.value), filter: entry.filter, count: entry.count }));
  for (const chosen of state.facets) {
    // What is chosen stays there to be taken away, even where nothing has it any more.
    if (chosen.field === field && !entries.some((entry) => sameFacet(entry, chosen))) entries.push({ ...chosen, count: 0 });
  }
  const buttons = entries.map(({ count: n, ...facet }) =>
    make("li", {}, choice(facet.label, n, state.facets.some((other) => sameFacet(other, facet)), () => toggleFacet(facet))),
  );
  if (found.n_values > entries.length) {
    buttons.push(make("li", { class: "note" }, `and ${numbers.format(found.n_values - entries.length)} more`));
  }
  refill(group.querySelector("ul"), buttons);
  // What all have in common tells nothing.
  const common = found.n_values === 1 && found.values[0].count === found.documents;
  group.hidden = !entries.length || (common && !state.facets.some((facet) => facet.field === field));
}

function choice(label, n, pressed, act) {
  const button = make(
    "button",
    { class: "choice", type: "button", "aria-pressed": String(pressed), title: label },
    make("span", { dir: "auto" }, label),
    make("span", { class: "number" }, numbers.format(n)),
  );
  button.addEventListener("click", act);
  return button;
}

/** New children for a list, with the focus on the button of the same label as before. */
function refill(place, children) {
  const focused = place.contains(document.activeElement) ? document.activeElement.title : null;
  place.replaceChildren(...children);
  if (focused !== null) [...place.querySelectorAll("button")].find((button) => button.title === focused)?.focus();
}

const unfolded = new Set();

async function countFolders(signal) {
  const tree = await folderList(null, signal);
  byId("folders-section").hidden = !tree;
  if (tree) refill(byId("folders"), [tree]);
}

async function folderList(under, signal) {
  const found = await get("/api/folders", { field: fields.folders, under, filter: filters({ withoutFolder: true }) }, signal);
  if (!found.folders.length) return null;
  const tree = make("ul", { class: "tree" });
  for (const folder of found.folders) tree.append(await folderItem(folder, signal));
  if (found.more) tree.append(make("li", { class: "note" }, `and ${numbers.format(found.more)} more`));
  return tree;
}

async function folderItem(folder, signal) {
  const chosen = { label: folder.prefix, filter: folder.filter };
  const name = choice(folder.name, folder.count, state.folder?.filter === folder.filter, () => chooseFolder(chosen));
  name.title = folder.prefix;
  const row = make("div", {});
  const entry = make("li", {}, row);
  if (folder.has_folders) {
    const turn = make("button", { class: "turn", type: "button", "aria-expanded": "false", "aria-label": `Folders in ${folder.name}` });
    turn.title = `Folders in ${folder.prefix}`;
    const unfold = async (by) => {
      const inside = await folderList(folder.prefix, by);
      if (inside) entry.append(inside);
      turn.setAttribute("aria-expanded", "true");
    };
    turn.addEventListener("click", () => {
      if (unfolded.delete(folder.prefix)) {
        entry.querySelector("ul")?.remove();
        turn.setAttribute("aria-expanded", "false");
      } else {
        unfolded.add(folder.prefix);
        unfold().catch((error) => {
          unfolded.delete(folder.prefix);
          unlessKnown(error);
        });
      }
    });
    row.append(turn);
    if (unfolded.has(folder.prefix)) await unfold(signal);
  } else {
    row.append(make("span", { class: "no-turn" }));
  }
  row.append(name);
  return entry;
}

// ---------------------------------------------------------------- Keys

const titles = () => [...document.querySelectorAll(".hit h2 a")];

function onKey(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const { activeElement } = document;
  const typing = activeElement instanceof HTMLInputElement && activeElement.type !== "radio";
  if (event.key === "/" && !typing) {
    event.preventDefault();
    byId("query").focus();
    byId("query").select();
  } else if (event.key === "Escape") {
    onEscape(event, activeElement);
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const all = titles();
    const at = all.indexOf(activeElement);
    const fromQuery = activeElement === byId("query");
    if (at < 0 && !(fromQuery && event.key === "ArrowDown")) return;
    const next = fromQuery ? 0 : at + (event.key === "ArrowDown" ? 1 : -1);
    if (next >= all.length) return;
    event.preventDefault();
    const target = next < 0 ? byId("query") : all[next];
    target.focus();
    target.closest(".hit")?.scrollIntoView({ block: "nearest" });
  } else if (event.key === "n" && !typing && byId("document").contains(activeElement)) {
    nextMatch();
  }
}

function onEscape(event, activeElement) {
  if (!byId("document").hidden) {
    event.preventDefault();
    closeDocument();
  } else if (activeElement === byId("query")) {
    if (!byId("query").value) return;
    event.preventDefault();
    byId("query").value = "";
    onQuery();
  } else if (byId("results").contains(activeElement)) {
    event.preventDefault();
    byId("query").focus();
  }
}

function onQuery() {
  state.query = byId("query").value;
  state.k = HITS;
  searchSoon();
}

// ---------------------------------------------------------------- Colours

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.scheme ?? (prefersDark.matches ? "dark" : "light")) === "dark";

function showScheme() {
  byId("scheme").setAttribute("aria-pressed", String(isDark()));
}

function toggleScheme() {
  const chosen = isDark() ? "light" : "dark";
  const { dataset } = document.documentElement;
  if ((chosen === "dark") === prefersDark.matches) {
    // As the system has it: then it is followed again when it changes.
    delete dataset.scheme;
    document.cookie = "edgecolbert-scheme=; path=/; samesite=strict; max-age=0";
  } else {
    dataset.scheme = chosen;
    document.cookie = `edgecolbert-scheme=${chosen}; path=/; samesite=strict; max-age=31536000`;
  }
  showScheme();
}

// ---------------------------------------------------------------- Begin

function showState() {
  byId("query").value = state.query;
  byId("filter").value = state.filter;
  for (const radio of document.querySelectorAll("#modes input")) {
    radio.checked = radio.value === state.mode;
    radio.disabled = !info.modes.includes(radio.value);
  }
  showChips();
}

async function begin() {
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  byId("query").addEventListener("input", onQuery);
  byId("modes").addEventListener("change", (event) => {
    state.mode = event.target.value;
    state.k = HITS;
    search();
  });
  byId("filter").addEventListener("input", () => {
    clearTimeout(filterWaiting);
    filterWaiting = setTimeout(readFilter, FILTERING);
  });
  byId("filter").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    clearTimeout(filterWaiting);
    readFilter();
  });
  byId("more").addEventListener("click", () => {
    state.k = Math.min(MOST_HITS, state.k + 2 * HITS);
    search();
  });
  byId("close").addEventListener("click", closeDocument);
  byId("next-match").addEventListener("click", nextMatch);
  byId("scheme").addEventListener("click", toggleScheme);
  byId("narrow").addEventListener("click", () => {
    byId("narrow").setAttribute("aria-expanded", String(byId("narrow").getAttribute("aria-expanded") !== "true"));
  });
  prefersDark.addEventListener("change", showScheme);
  document.addEventListener("keydown", onKey);
  showScheme();

  info = await get("/api/info");
  byId("database").textContent = info.path.split(/[/\\]/).pop();
  byId("database").title = info.path;
  byId("query").maxLength = info.limits.query_characters;
  byId("filter").maxLength = info.limits.filter_characters;
  if (info.problem) alarm(`Only words can be searched for: ${info.problem}`);
  // What was typed while the page was being made is not thrown away.
  const typed = byId("query").value;
  readAddress();
  state.query = typed || state.query;
  showState();
  search();
  fields = await get("/api/fields");
  if (state.filter) readFilter();
  if (state.document) openDocument(state.document, null, { focus: false });
  count();
  addEventListener("hashchange", () => {
    readAddress();
    showState();
    search();
    count();
    if (state.document) openDocument(state.document);
    else if (!byId("document").hidden) closeDocument();
  });
}

begin().catch(unlessKnown);
