// Reads a page about live jobs again every ten seconds, and shows its new content in place of the old.
"use strict";
(() => {
  const SECONDS = 10;
  const bar = document.getElementById("refresh");
  const button = bar.querySelector("button");
  const said = bar.querySelector("span");
  const content = document.getElementById("content");
  let paused = false;

  function say(text) {
    if (said.textContent !== text) said.textContent = text;
  }

  function show() {
    const live = content.dataset.live === "yes";
    bar.hidden = !live;
    button.textContent = paused ? "Refresh again" : "Pause";
    return live;
  }

  // A person who fills in the filter, or has selected a text to copy, is not disturbed.
  function busy() {
    const active = document.activeElement;
    const writes = active && content.contains(active) && active.closest("form");
    return document.hidden || writes || String(document.getSelection()) !== "";
  }

  function replace(page) {
    const fresh = page.getElementById("content");
    const active = document.activeElement;
    const focused = active && content.contains(active) ? active.id : "";
    const scrolled = [...content.querySelectorAll("[id]")].map((each) =>
      [each.id, each.scrollTop, each.scrollLeft]);
    content.replaceChildren(...fresh.childNodes);
    content.dataset.live = fresh.dataset.live;
    for (const [id, top, left] of scrolled) {
      const each = document.getElementById(id);
      if (each) { each.scrollTop = top; each.scrollLeft = left; }
    }
    if (focused && focused !== "content") {
      document.getElementById(focused)?.focus({ preventScroll: true });
    }
  }

  async function refresh() {
    if (paused || busy()) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!paused && !busy()) replace(page);
      say(`Refreshes every ${SECONDS} seconds.`);
    } catch (error) {
      say(`Cannot be refreshed: ${error.message}. It is tried again.`);
    }
  }

  button.addEventListener("click", () => {
    paused = !paused;
    show();
    say(paused ? "Paused." : `Refreshes every ${SECONDS} seconds.`);
  });
  if (show()) {
    say(`Refreshes every ${SECONDS} seconds.`);
    const timer = setInterval(async () => {
      await refresh();
      if (!show()) clearInterval(timer);
    }, SECONDS * 1000);
  }
})();
