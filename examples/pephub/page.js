// The login that PEPhub documents: to /auth/login and back with a code, which is traded for a token at /auth/token.
// The token is kept for this tab alone. PKCE (RFC 7636) binds the code to this tab where the browser has the means.
"use strict";

const base = document.body.dataset.login;
const own = location.origin + "/callback";
const $ = (id) => document.getElementById(id);

function base64url(bytes) {
  return btoa(String.fromCharCode(...new Uint8Array(bytes))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

async function logIn() {
  const query = new URLSearchParams({ client_redirect_uri: own });
  const verifier = base64url(crypto.getRandomValues(new Uint8Array(32)));
  sessionStorage.setItem("verifier", verifier);
  if (crypto.subtle) {
    query.set("code_challenge", base64url(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier))));
    query.set("code_challenge_method", "S256");
  }
  location.assign(base + "/auth/login?" + query);
}

async function finish(code) {
  const verifier = sessionStorage.getItem("verifier");
  sessionStorage.removeItem("verifier");
  history.replaceState(null, "", "/"); // the code is not to stay in the address
  if (!verifier) { // a login that this tab did not begin
    $("notice").textContent = "This login began elsewhere. Log in here.";
    return;
  }
  const body = { code, client_redirect_uri: own };
  if (crypto.subtle) body.code_verifier = verifier;
  const answer = await fetch(base + "/auth/token", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });
  const said = await answer.json();
  if (!answer.ok) {
    $("notice").textContent = said.detail + " Log in again.";
    return;
  }
  sessionStorage.setItem("token", said.token);
}

function claimsOf(token) {
  const text = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
  return JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (letter) => letter.charCodeAt(0))));
}

async function show(token) {
  const person = claimsOf(token);
  $("who").textContent = "You are " + person.login + ".";
  $("login").hidden = true;
  $("logout").hidden = $("own").hidden = false;
  $("projects").replaceChildren();
  for (const space of [person.login, ...person.orgs]) {
    const answer = await fetch("/api/v1/namespaces/" + encodeURIComponent(space) + "/projects?limit=1000", {
      headers: { Authorization: "Bearer " + token },
    });
    const found = await answer.json();
    if (!answer.ok) {
      logOut(found.detail);
      return;
    }
    if (!found.can_edit) { // the token is not accepted any more, and what is public is all that is shown
      logOut("Your login has ended.");
      return;
    }
    for (const project of found.results.filter((one) => one.is_private)) {
      const row = document.createElement("li");
      row.textContent = project.namespace + "/" + project.name + ":" + project.tag + " " + project.number_of_samples + " samples";
      $("projects").append(row);
    }
  }
}

function logOut(why) {
  sessionStorage.removeItem("token");
  $("who").textContent = "You are not logged in.";
  $("notice").textContent = why;
  $("login").hidden = false;
  $("logout").hidden = $("own").hidden = true;
}

async function main() {
  $("login").addEventListener("click", logIn);
  $("logout").addEventListener("click", () => logOut(""));
  const code = new URLSearchParams(location.search).get("code");
  if (location.pathname === "/callback" && code) await finish(code);
  const token = sessionStorage.getItem("token");
  if (token) await show(token);
}

main().catch((error) => { $("notice").textContent = "That did not work: " + error.message; });
