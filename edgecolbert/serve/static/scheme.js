// Before the page is drawn: the colours that were chosen. In a cookie, because each run of the server has another port,
// and so another local storage.
"use strict";
{
  const chosen = /(?:^|; )edgecolbert-scheme=(light|dark)(?:;|$)/.exec(document.cookie);
  if (chosen) document.documentElement.dataset.scheme = chosen[1];
}
