// Elements from values, and the smallest change that turns one tree into another.
//
// No HTML is ever made from a string, so nothing that a service says can become markup. Trees are
// built anew at each update and merged into the page: focus, selection and scroll stay where they
// are. A child with a `data-key` is the same one wherever it moves; one with `data-own` belongs to
// a component and is left alone. Listeners sit on elements that stay.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

/** Makes the children of `element` equal to `children`. */
export function show(element, ...children) {
  const wanted = children.flat(Infinity).filter((child) => child != null && child !== false);
  const keyed = new Map();
  for (const child of element.childNodes) if (child.dataset?.key) keyed.set(child.dataset.key, child);
  let place = element.firstChild;
  for (const child of wanted) {
    const next = typeof child === "string" ? document.createTextNode(child) : child;
    const known = next.dataset?.key ? keyed.get(next.dataset.key) : !place?.dataset?.key && place;
    if (known && isSame(known, next)) {
      if (known === place) place = place.nextSibling;
      else element.insertBefore(known, place);
      merge(known, next);
    } else {
      element.insertBefore(next, place);
    }
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

function isSame(known, next) {
  return known === next || known.nodeName === next.nodeName;
}

function merge(known, next) {
  if (known === next || known.dataset?.own) return;
  if (known.nodeType === Node.TEXT_NODE) {
    if (known.data !== next.data) known.data = next.data;
    return;
  }
  for (const { name } of [...known.attributes]) if (!next.hasAttribute(name)) known.removeAttribute(name);
  for (const { name, value } of next.attributes) {
    if (known.getAttribute(name) !== value) known.setAttribute(name, value);
  }
  show(known, [...next.childNodes]);
}
