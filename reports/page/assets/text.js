// Text and elements. Whatever comes from the run reaches the page as text, through `textContent` alone.
"use strict";

// What has no glyph (control, bidirectional, zero-width, private, lone surrogates) is shown by its code point.
const UNSEEN = /[\p{C}\u2028\u2029]/gu;
const codePoint = (character) =>
  character === "\n" || character === "\t" ? character : `<U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`;
const visible = (text) => String(text).replace(UNSEEN, codePoint);

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = visible(value);
    else if (name === "class") element.className = value;
    else if (name === "value") element.value = value; // compared with what the data hold, never shown
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : visible(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const number = (value, digits = 0, sign = false) =>
  value === null || value === undefined
    ? "—"
    : value.toLocaleString("en-US", {
        minimumFractionDigits: digits,
        maximumFractionDigits: digits,
        signDisplay: sign ? "exceptZero" : "negative",
      }).replace("-", "−");

const SHORT = 300; // characters of a text that is shown whole at once
const PART = 20000; // characters of one part of a long text

// A text, shortened; a button opens it in parts.
function longText(text, short = SHORT) {
  if (text.length <= short) return make("span", { class: "answer", dir: "auto", text });
  const holder = make("span", { class: "answer", dir: "auto", text: `${whole(text, 0, short)}…` });
  const button = make("button", { type: "button", class: "more", text: `all ${number(text.length)} characters` });
  const box = make("span", { class: "long" }, holder, button);
  button.addEventListener("click", (event) => {
    event.stopPropagation();
    showText(text);
  });
  return box;
}

// text[start, end), without half a surrogate pair at its end.
function whole(text, start, end) {
  return text.slice(start, end).replace(/[\ud800-\udbff]$/, "");
}

// A dialog with one part of a text at a time: a browser lays out millions of characters slowly.
function showText(text) {
  const parts = Math.max(1, Math.ceil(text.length / PART));
  const body = make("pre", { class: "part", dir: "auto", tabindex: "0" });
  const place = make("span", { role: "status" });
  let at = 0;
  const go = (to) => {
    at = Math.min(Math.max(to, 0), parts - 1);
    const end = Math.min((at + 1) * PART, text.length);
    body.textContent = visible(text.slice(at * PART, end));
    place.textContent = `characters ${number(at * PART + 1)} to ${number(end)} of ${number(text.length)}`;
  };
  const dialog = make("dialog", { "aria-label": "The whole text", class: "whole" });
  const step = (label, by) => make("button", { type: "button", text: label, onclick: () => go(at + by) });
  dialog.append(
    make("div", { class: "controls" }, step("‹ before", -1), step("next ›", 1), place,
      make("button", { type: "button", class: "close", text: "Close", onclick: () => dialog.close() })),
    body,
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  go(0);
  dialog.showModal();
}

// A labelled <select>; options as [value, text].
function select(label, options, value, onchange) {
  const control = make("select", {}, ...options.map(([key, text]) => make("option", { value: key, text })));
  control.value = String(value);
  control.addEventListener("change", () => onchange(control.value));
  const holder = make("label", { class: "control" }, make("span", { text: label }), control);
  return holder;
}
