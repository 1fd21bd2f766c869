// Elements from data. Text goes in as text, never as markup: what entries hold is written by whoever can write entries.

export const $ = (id) => document.getElementById(id);

// Marks that turn the direction of text, and invisible ones: shown as �, so that what is read is what is there.
const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

export const visible = (text) => String(text).replace(HIDDEN, "\ufffd");

/** An element with properties and children; strings become text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on") || name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.map((child) => (child instanceof Node ? child : visible(child))));
  return element;
}

export const count = (n) => Number(n).toLocaleString("en");

/** 2026-01-02 03:04:05.678 */
export const time = (text) => String(text).replace("T", " ").replace("Z", "");
