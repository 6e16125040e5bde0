// Buttons that copy curl lines, and a list of requests that refreshes itself. All else does without.
"use strict";

function addCopyButtons(part) {
  if (!navigator.clipboard) return; // another host, without TLS
  for (const block of part.querySelectorAll(".curl")) {
    if (block.querySelector("button")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    block.append(button);
  }
}

// Make a part of the page like a newer one. What did not change is left alone, and with it what
// someone has opened, selected or focused. Rows are recognized by their id; their order is fixed.
function patch(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeName !== fresh.nodeName || old.nodeType !== Node.ELEMENT_NODE) {
    old.replaceWith(fresh);
    return;
  }
  if (old.matches("details, .curl")) return; // the same for ever, but for its state and its button
  for (const name of old.getAttributeNames()) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const rows = new Map(Array.from(old.children, (row) => [row.id, row]));
  let next = old.firstChild;
  const removeNext = () => {
    const removed = next;
    next = next.nextSibling;
    removed.remove();
  };
  for (const child of [...fresh.childNodes]) {
    const same = child.id ? rows.get(child.id) : next?.id ? null : next;
    while (same && next && next !== same) removeNext();
    if (same && next) {
      next = next.nextSibling;
      patch(same, child);
    } else {
      old.insertBefore(child, next);
    }
  }
  while (next) removeNext();
}

function addRefresh(list) {
  const label = document.createElement("label");
  const box = document.createElement("input");
  label.className = "check refresh";
  box.type = "checkbox";
  box.checked = sessionStorage.getItem("refresh") === "on";
  label.append(box, " Refresh every 2 s");
  document.querySelector(".filters").append(label);
  box.addEventListener("change", () => sessionStorage.setItem("refresh", box.checked ? "on" : "off"));
  setInterval(async () => {
    if (!box.checked || document.hidden) return;
    try {
      const answer = await fetch(location.href);
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      patch(list, page.getElementById("live"));
      addCopyButtons(list);
    } catch {
      // The service is away: the next try may find it.
    }
  }, 2000);
}

addCopyButtons(document);
if (document.getElementById("live")) addRefresh(document.getElementById("live"));
