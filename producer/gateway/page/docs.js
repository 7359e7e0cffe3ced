// Lists the calls of openapi.json, which stands beside this page whatever prefix a proxy puts before both. Text goes in as text, never as markup.
"use strict";

const METHODS = ["get", "post", "put", "delete", "patch"];

function element(name, text, children = []) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function resolved(schema, document_) {
  if (!schema || !schema.$ref) return schema || {};
  return document_.components.schemas[schema.$ref.split("/").pop()] || {};
}

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf || schema.oneOf) return (schema.anyOf || schema.oneOf).map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(", ");
  if (schema.type === "array") return `list of ${typeOf(schema.items || {})}`;
  return schema.format ? `${schema.type} (${schema.format})` : schema.type || "any";
}

function table(rows) {
  return element("table", "", rows.map((row) => element("tr", "", row.map((cell) => element("td", cell)))));
}

function fields(schema, document_) {
  const found = resolved(schema, document_);
  const required = new Set(found.required || []);
  return table(Object.entries(found.properties || {}).map(([name, part]) => [
    required.has(name) ? `${name} (required)` : name, typeOf(part), part.description || "",
  ]));
}

function call(path, method, operation, document_) {
  const body = element("div", "", [element("p", operation.description || "")]);
  if (operation.parameters && operation.parameters.length) {
    body.append(element("h3", "Parameters"), table(operation.parameters.map((one) => [
      `${one.name} (${one.in})`, typeOf(one.schema || {}), one.description || "",
    ])));
  }
  for (const [type, content] of Object.entries((operation.requestBody || {}).content || {})) {
    body.append(element("h3", `Body: ${type}`), fields(content.schema, document_));
  }
  body.append(element("h3", "Answers"), table(Object.entries(operation.responses || {}).map(([status, answer]) => [
    status, Object.keys(answer.content || {}).join(", "), answer.description || "",
  ])));
  const method_ = element("code", method.toUpperCase());
  method_.className = "method";
  const summary = element("summary", "", [method_, element("code", path), element("span", ` ${operation.summary || ""}`)]);
  return element("details", "", [summary, body]);
}

async function show() {
  const main = document.getElementById("calls");
  try {
    const answer = await fetch("openapi.json");
    if (!answer.ok) throw new Error(`openapi.json was answered with ${answer.status}`);
    const document_ = await answer.json();
    document.getElementById("about").textContent = document_.info.description;
    const calls = Object.entries(document_.paths).flatMap(([path, item]) =>
      METHODS.filter((method) => item[method]).map((method) => call(path, method, item[method], document_)));
    main.replaceChildren(...calls);
  } catch (error) {
    main.replaceChildren(element("p", `The list cannot be shown: ${error.message}`));
  }
  main.removeAttribute("aria-busy");
}

show();
