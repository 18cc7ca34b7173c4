"use strict";

// Of a served site, the search index of 1 MB is fetched when a reader searches, or comes from a search; not with each page.
{
  const { open, send } = XMLHttpRequest.prototype, indices = new WeakSet();
  const fromSearch = ["q", "h"].some((name) => new URLSearchParams(location.search).has(name));
  const wanted = new Promise((resolve) => {
    if (fromSearch) resolve();
    document.addEventListener("focusin", ({ target }) => target.matches(".md-search__input") && resolve());
  });
  XMLHttpRequest.prototype.open = function (method, address, ...rest) {
    if (String(address).endsWith("/search/search_index.json")) indices.add(this);
    return open.call(this, method, address, ...rest);
  };
  XMLHttpRequest.prototype.send = function (...body) {
    if (indices.has(this)) wanted.then(() => send.apply(this, body));
    else send.apply(this, body);
  };
}
