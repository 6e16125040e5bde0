// Copy buttons, requests that appear as they arrive, and keys. Everything else works without a script.
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

// --- New requests --------------------------------------------------------------------------------

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

// Show a newer page; what one reads stays where it is on the screen.
function update(list, html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  const row = [...list.querySelectorAll("tr[id]")].find((one) => one.getBoundingClientRect().bottom > 0);
  const top = row?.getBoundingClientRect().top;
  patch(list, page.getElementById("live"));
  patch(document.querySelector("nav"), page.querySelector("nav"));
  document.title = page.title;
  addCopyButtons(list);
  if (scrollY && row?.isConnected) scrollBy(0, row.getBoundingClientRect().top - top);
}

// The service responds once something has changed, and then the page is fetched again.
// A hidden page asks nothing. After an error it asks again later and later.
async function follow(list, box, status) {
  const mayAsk = () => box.checked && !document.hidden;
  let wake = () => {};
  let asking = new AbortController();
  const pause = (ms) => new Promise((done) => {
    wake = done;
    if (ms) setTimeout(done, ms);
  });
  const look = () => {
    if (mayAsk()) wake();
    else asking.abort();
  };
  document.addEventListener("visibilitychange", look);
  box.addEventListener("change", look);
  const ask = async (url) => {
    const answer = await fetch(url, { signal: asking.signal });
    if (!answer.ok) throw new Error(answer.status);
    return answer.text();
  };
  for (let wait = 1000; ;) {
    while (!mayAsk()) await pause();
    asking = new AbortController();
    try {
      const seen = new URL(list.dataset.changes, location).searchParams.get("after");
      if (await ask(list.dataset.changes) !== seen) { // else the time is over
        await pause(200); // for a response, or more requests
        update(list, await ask(location.href));
      }
      wait = 1000;
      status.textContent = "";
    } catch {
      if (asking.signal.aborted) continue;
      status.textContent = "No connection: trying again";
      await pause(wait);
      wait = Math.min(2 * wait, 60_000);
    }
  }
}

function goLive(list) {
  const label = document.createElement("label");
  const box = document.createElement("input");
  const status = document.createElement("span");
  label.className = "check live";
  box.type = "checkbox";
  box.checked = sessionStorage.getItem("live") !== "off";
  box.addEventListener("change", () => sessionStorage.setItem("live", box.checked ? "on" : "off"));
  label.append(box, " Live");
  status.className = "check blame";
  status.setAttribute("role", "status");
  document.querySelector(".filters").append(label, status);
  follow(list, box, status);
}

// --- Keys ----------------------------------------------------------------------------------------

function addKeys(dialog, button) {
  const box = dialog.querySelector("input");
  const show = () => dialog.showModal();
  const move = (by) => {
    const rows = [...document.querySelectorAll("main tbody tr")].filter((row) => row.querySelector("a"));
    const at = rows.findIndex((row) => row.contains(document.activeElement));
    rows[Math.max(0, at + by)]?.querySelector("a").focus();
  };
  const keys = {
    "j": () => move(1),
    "k": () => move(-1),
    "/": () => document.querySelector('[aria-keyshortcuts="/"]')?.focus(),
    "?": show,
  };
  box.checked = localStorage.getItem("keys") !== "off";
  box.addEventListener("change", () => localStorage.setItem("keys", box.checked ? "on" : "off"));
  button.hidden = false;
  button.addEventListener("click", show);
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
  document.addEventListener("keydown", (event) => {
    const isTyping = event.isComposing || event.ctrlKey || event.altKey || event.metaKey
      || event.target.closest("input:not([type=checkbox]), select, textarea, dialog");
    if (isTyping || !box.checked || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
}

if (document.querySelector(".done")) { // it is said once, not again when one reloads or comes back
  const here = new URL(location);
  here.searchParams.delete("done");
  history.replaceState(null, "", here);
}
addCopyButtons(document);
if (document.getElementById("live")) goLive(document.getElementById("live"));
addKeys(document.getElementById("keys"), document.getElementById("show-keys"));
