// All of the page works without this. It shows times in the reader's zone, and what comes line by line while it comes.
"use strict";

for (const each of document.querySelectorAll("time[datetime]")) {
  const at = new Date(each.dateTime);
  if (!isNaN(at)) {
    each.title = each.textContent;
    each.textContent = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  }
}

// <div data-stream="address" data-ended="words">: each server-sent event is one line of the dialogue.
for (const box of document.querySelectorAll("[data-stream]")) {
  const source = new EventSource(box.dataset.stream);
  const status = document.getElementById(box.dataset.status);
  const most = 5000;
  source.onmessage = (message) => {
    const low = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    box.append(JSON.parse(message.data) + "\n");
    while (box.childNodes.length > most) box.firstChild.remove();
    if (low) box.scrollTop = box.scrollHeight;
  };
  const end = () => {
    source.close();
    if (status) status.textContent = box.dataset.ended;
  };
  source.addEventListener("end", end);
  source.onerror = end;
}

// <input type="checkbox" data-all="name">: ticks all boxes of that name.
for (const all of document.querySelectorAll("[data-all]")) {
  const boxes = () => document.querySelectorAll(`input[name="${all.dataset.all}"]`);
  all.closest("[hidden]")?.removeAttribute("hidden");
  all.addEventListener("change", () => boxes().forEach((box) => { box.checked = all.checked; }));
}
