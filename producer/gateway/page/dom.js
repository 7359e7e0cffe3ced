// Elements in one line, and what is said to screen readers.

// makes <tag> with attributes; `on` are listeners, null and false attributes are left out, children may be null.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export function icon(name) {
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  picture.setAttribute("class", "icon");
  picture.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  picture.append(use);
  return picture;
}

export function button(label, { glyph = null, quiet = true, ...attributes } = {}, ...more) {
  const kind = quiet ? "button quiet" : "button";
  return element("button", { type: "button", class: kind, ...attributes }, glyph ? icon(glyph) : null, label, ...more);
}

// Says something to whoever does not see the page. The same words twice are said twice.
export function announce(words) {
  const region = document.getElementById("announcer");
  region.textContent = "";
  requestAnimationFrame(() => {
    region.textContent = words;
  });
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, shown) {
  // Not by the property: an SVG has none.
  node.toggleAttribute("hidden", !shown);
}

// Waits, unless `wake` (an EventTarget) tells of something sooner.
export function pause(ms, wake = null, event = "wake") {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      wake?.removeEventListener(event, done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    wake?.addEventListener(event, done, { once: true });
  });
}
