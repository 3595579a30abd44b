"use strict";

function node(tag, text) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  return made;
}

async function show() {
  const key = sessionStorage.getItem("key");
  const answer = await fetch("/openapi.json", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  const main = document.getElementById("routes");
  if (!answer.ok) {
    main.append(node("p", (await answer.json()).error.message));
    return;
  }
  const api = await answer.json();
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const section = node("section");
      section.append(node("h2", `${method.toUpperCase()} ${path}`));
      const body = operation.requestBody;
      if (body) {
        const name = body.content["application/json"].schema.$ref.split("/").pop();
        section.append(fields(api.components.schemas[name]));
      }
      main.append(section);
    }
  }
}

function fields(schema) {
  const table = node("table");
  const required = new Set(schema.required || []);
  for (const [name, about] of Object.entries(schema.properties || {})) {
    const row = node("tr");
    row.append(node("th", name), node("td", required.has(name) ? "required" : ""), node("td", typeOf(about)));
    table.append(row);
  }
  return table;
}

function typeOf(about) {
  if (about.anyOf) return about.anyOf.map(typeOf).join(" or ");
  if (about.enum) return about.enum.join(", ");
  if (about.$ref) return about.$ref.split("/").pop();
  if (about.type === "array") return `list of ${about.items ? typeOf(about.items) : "anything"}`;
  return about.type || "anything";
}

show();
