// Removes the code from the address, so that neither the history nor a copied address keeps it, and fills it in.
// Only the button signs in, because a browser may run this page before the visitor has requested it.

function take() {
  const code = location.hash.slice(1);
  if (!code) return;
  document.getElementById("code").value = code;
  history.replaceState(null, "", location.pathname);
}

addEventListener("hashchange", take);
take();
