// Buttons that copy curl lines, and a list of requests that refreshes itself. All else does without.
"use strict";

function addCopyButtons(part) {
  if (!navigator.clipboard) return; // another host, without TLS
  for (const block of part.querySelectorAll(".curl")) {
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
      list.replaceChildren(...page.getElementById("live").childNodes);
      addCopyButtons(list);
    } catch {
      // The service is away: the next try may find it.
    }
  }, 2000);
}

addCopyButtons(document);
if (document.getElementById("live")) addRefresh(document.getElementById("live"));
