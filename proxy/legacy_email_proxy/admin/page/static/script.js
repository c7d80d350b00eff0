// All of the page works without this. It shows times in the reader's zone, and what comes line by line while it comes.
"use strict";

const before = document.querySelector("main").innerHTML;

for (const each of document.querySelectorAll("time[datetime]")) {
  const at = new Date(each.dateTime);
  if (!isNaN(at)) {
    each.title = at.toLocaleString(undefined, { dateStyle: "full", timeStyle: "long" });
    const now = new Date();
    const year = at.getFullYear() === now.getFullYear() ? undefined : "numeric";
    each.textContent = at.toDateString() === now.toDateString()
      ? at.toLocaleTimeString(undefined, { timeStyle: "medium" })
      : at.toLocaleString(undefined, { year, month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
  }
}

// Below a graph: the hour or the day.
for (const each of document.querySelectorAll("[data-moment]")) {
  const at = new Date(1000 * Number(each.dataset.moment));
  const as = each.dataset.as === "hour" ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" };
  if (!isNaN(at)) each.textContent = at.toLocaleString(undefined, as);
}

// The zone in which the days of a search begin: minutes ahead of UTC.
for (const each of document.querySelectorAll("[data-zone]")) each.value = -new Date().getTimezoneOffset();

// <div data-stream="address" data-status="id" data-ended="words">: each server-sent event is one line of the dialogue.
for (const box of document.querySelectorAll("[data-stream]")) {
  const source = new EventSource(box.dataset.stream);
  const status = document.getElementById(box.dataset.status);
  const most = 5000;
  if (status) status.textContent = status.dataset.words;
  source.onmessage = (message) => {
    const low = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    const line = JSON.parse(message.data);
    const at = line.time ? new Date(1000 * line.time).toLocaleTimeString() + " " : "";
    box.append(at + line.text + "\n");
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

// <div data-look="3" data-but="id">: looks every so many seconds whether the page would say something else now, and then
// loads it; not while something is typed into the field with that id.
for (const each of document.querySelectorAll("[data-look]")) {
  const look = async () => {
    if (document.getElementById(each.dataset.but)?.value) return;
    const answer = await fetch(location.href).catch(() => null);
    if (!answer || !answer.ok) return;
    const now = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (now.querySelector("main").innerHTML !== before) location.reload();
  };
  setInterval(look, each.dataset.look * 1000);
}
