// Keeps the page current: hears of a new block, asks for the sections, changes those that differ.
// The server escapes everything that it sends; this script adds no text of its own to them.
"use strict";

const connection = document.getElementById("connection");
const shown = new Map();
let pinned = new URLSearchParams(location.search).get("slot") ?? "";
let isBusy = false;
let isStale = false;
let isOver = false;

async function renew() {
  if (isBusy) {
    isStale = true;
    return;
  }
  isBusy = true;
  try {
    do {
      isStale = false;
      const asked = pinned;
      const query = asked === "" ? "" : `?slot=${encodeURIComponent(asked)}`;
      const answer = await fetch(`api/sections${query}`);
      if (answer.ok && asked === pinned) {
        show(await answer.json());
      }
    } while (isStale);
  } catch {
    // The stream says that the connection is lost, and renews the page when it is back.
  } finally {
    isBusy = false;
  }
}

function show(sections) {
  for (const [id, markup] of Object.entries(sections)) {
    const place = document.getElementById(id);
    if (place === null || shown.get(id) === markup) {
      continue;
    }
    const focused = place.contains(document.activeElement) ? address(document.activeElement) : null;
    const open = [...place.querySelectorAll("details[open]")].map((each) => each.id);
    place.innerHTML = markup;
    shown.set(id, markup);
    for (const each of open) {
      document.getElementById(each)?.setAttribute("open", "");
    }
    if (focused !== null) {
      place.querySelector(focused)?.focus();
    }
  }
}

// How to find what has the focus once its section has been replaced.
function address(focused) {
  if (focused.dataset.slot !== undefined) {
    return `[data-slot="${CSS.escape(focused.dataset.slot)}"]`;
  }
  const details = focused.closest("details");
  return details === null ? null : `#${CSS.escape(details.id)} > summary`;
}

function say(words, state) {
  connection.textContent = words;
  connection.dataset.state = state;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-slot]");
  if (link === null || event.ctrlKey || event.metaKey || event.shiftKey) {
    return;
  }
  event.preventDefault();
  pinned = link.dataset.slot;
  history.replaceState(null, "", pinned === "" ? "./" : `./?slot=${encodeURIComponent(pinned)}`);
  renew();
});

const events = new EventSource("api/events");
events.addEventListener("open", () => say("live", "live"));
events.addEventListener("street", (event) => {
  const street = JSON.parse(event.data);
  isOver = street.genesis.slots > 0 && street.genesis.slots === street.totals.slots_settled;
  say(isOver ? "the day is over" : "live", isOver ? "over" : "live");
  renew();
});
events.addEventListener("error", () => {
  if (isOver) {
    say("the day is over", "over");
    events.close();
  } else {
    say("connection lost, this is the last state", "lost");
  }
});
document.documentElement.classList.add("has-script");
