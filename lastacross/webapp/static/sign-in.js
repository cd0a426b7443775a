// Takes the code out of the address, so that neither the history nor a copied address keeps it, and fills it in.
// Signing in is left to the button: a browser may run this page before anybody has asked for it.

function take() {
  const code = location.hash.slice(1);
  if (!code) return;
  document.getElementById("code").value = code;
  history.replaceState(null, "", location.pathname);
}

addEventListener("hashchange", take);
take();
