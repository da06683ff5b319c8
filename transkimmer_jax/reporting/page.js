"use strict";
const byId = (id) => document.getElementById(id);
const made = (element, text, attributes) => {
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const make = (name, text, attributes = {}) => made(document.createElement(name), text, attributes);
const shape = (name, attributes = {}, text) => made(document.createElementNS("http://www.w3.org/2000/svg", name), text, attributes);
const percent = (share) => `${(100 * share).toFixed(0)} %`;
