"use strict";

const element = (id) => document.getElementById(id);
const CUT = 600; // characters of a passage that are shown at first

// Passages come from anywhere: they become text nodes, never markup.
function node(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function say(text) {
  element("message").textContent = text;
}

function headers() {
  const key = sessionStorage.getItem("key");
  const sent = { "Content-Type": "application/json" };
  if (key) sent.Authorization = `Bearer ${key}`;
  return sent;
}

function wantKey() {
  sessionStorage.removeItem("key");
  element("keyfield").hidden = false;
}

async function ask(path, body) {
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  const answer = await fetch(path, { ...options, headers: headers() });
  const told = await answer.json();
  if (answer.status === 401) wantKey();
  if (!answer.ok) throw new Error(told.error ? told.error.message : `Status ${answer.status}`);
  return told;
}

function configurations(info) {
  const found = [];
  for (const [collection, about] of Object.entries(info.collections)) {
    const name = Object.keys(info.collections).length > 1 ? `${collection}: ` : "";
    const modes = [["hybrid", "BM25 and encoder"], ["dense", `encoder (${about.encoder})`], ["bm25", "BM25"]];
    for (const [mode, title] of modes) {
      if (about.reranking) {
        found.push({ title: `${name}${title}, reranked`, collection, mode, rerank: true });
      }
      found.push({ title: `${name}${title}`, collection, mode, rerank: false });
    }
  }
  return found;
}

let choices = [];

async function start() {
  try {
    if ((await ask("/health")).key_required && !sessionStorage.getItem("key")) {
      wantKey();
      return;
    }
    const info = await ask("/info");
    choices = configurations(info);
    const names = Object.entries(info.collections).map(([name, about]) => `${name}, generation ${about.generation}`);
    element("about").textContent = names.join("; ");
    for (const id of ["left", "right"]) {
      const select = element(id);
      choices.forEach((choice, place) => {
        const option = node("option", choice.title);
        option.value = String(place);
        select.append(option);
      });
    }
    say("");
  } catch (error) {
    say(error.message);
  }
}

function marked(text, words) {
  const made = document.createDocumentFragment();
  const pattern = words.length ? new RegExp(`(${words.join("|")})`, "giu") : null;
  const pieces = pattern ? text.split(pattern) : [text];
  pieces.forEach((piece, place) => made.append(place % 2 ? node("mark", piece) : piece));
  return made;
}

function wordsOf(query) {
  const words = query.match(/[\p{L}\p{N}]{3,}/gu) || [];
  return [...new Set(words)].slice(0, 32);
}

// The part of a passage where most words of the query are
function excerpt(text, words) {
  if (text.length <= CUT) return text;
  const lower = text.toLowerCase();
  const places = words.map((word) => lower.indexOf(word.toLowerCase())).filter((place) => place >= 0);
  const start = places.length ? Math.max(0, Math.min(...places) - 100) : 0;
  return `${start ? "… " : ""}${text.slice(start, start + CUT)}${start + CUT < text.length ? " …" : ""}`;
}

function hitOf(hit, words, others) {
  const item = node("li", undefined, others && !others.has(hit.id) ? "only" : "");
  item.append(node("div", hit.title || hit.id, "title"));
  const text = node("div");
  text.append(marked(excerpt(hit.text, words), words));
  item.append(text);
  const scores = Object.entries(hit.scores).map(([name, value]) => `${name} ${value.toFixed(3)}`);
  item.append(node("p", [hit.id, ...scores].join(" · "), "meta"));
  return item;
}

function column(choice, answer, words, others) {
  const section = node("section");
  section.append(node("h2", choice.title));
  section.append(node("p", `${answer.timings_ms.total} ms`, "meta"));
  const hits = answer.results[0].hits;
  if (!hits.length) section.append(node("p", "No passage found."));
  const list = node("ol");
  hits.forEach((hit) => list.append(hitOf(hit, words, others)));
  section.append(list);
  return section;
}

async function search(event) {
  event.preventDefault();
  if (element("key").value) sessionStorage.setItem("key", element("key").value);
  if (!choices.length) await start();
  if (!choices.length) return;
  const query = element("query").value;
  const chosen = ["left", "right"].map((id) => element(id).value).filter((value) => value !== "");
  say("Searching …");
  try {
    const answers = await Promise.all(chosen.map((value) => {
      const { collection, mode, rerank } = choices[Number(value)];
      return ask("/v1/search", { query, collection, mode, rerank, top_k: Number(element("count").value) });
    }));
    const ids = answers.map((answer) => new Set(answer.results[0].hits.map((hit) => hit.id)));
    const words = wordsOf(query);
    element("results").replaceChildren(...answers.map((answer, place) =>
      column(choices[Number(chosen[place])], answer, words, answers.length > 1 ? ids[1 - place] : null)));
    element("keyfield").hidden = true;
    say(`${answers.map((answer) => answer.results[0].hits.length).join(" and ")} hits`);
  } catch (error) {
    element("results").replaceChildren();
    say(error.message);
  }
}

element("search").addEventListener("submit", search);
start();
