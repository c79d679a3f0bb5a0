// A React hook that logs a person in for a hub, by the code that comes back in the address: docs/pephub.md. It is one
// file to copy, and needs React alone.
//
//   const { token, error, logIn, logOut } = usePEPhubLogin('https://hub.example.org', 'https://app.example.org/callback');
//
// The redirect URI is registered in auth.redirect_uris, and this page's origin in auth.origins.
import { useCallback, useEffect, useState } from 'react';

const kept = 'pephub_session';

// call sends a request to the hub, and returns its answer; what it refuses is an error with the hub's own text.
async function call(hub, path, token, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (options.body) headers['Content-Type'] = 'application/json';
  const answer = await fetch(hub + path, { ...options, headers });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail);
  return body;
}

export function usePEPhubLogin(hub, redirectURI) {
  const [token, setToken] = useState(() => sessionStorage.getItem(kept));
  const [error, setError] = useState(null);

  const keep = useCallback((fresh) => {
    if (fresh) sessionStorage.setItem(kept, fresh);
    else sessionStorage.removeItem(kept);
    setToken(fresh);
  }, []);

  useEffect(() => {
    const code = new URLSearchParams(window.location.search).get('code');
    if (!code) return;
    window.history.replaceState(null, '', redirectURI); // a code is good once: it leaves the address first
    call(hub, '/auth/token', null, { method: 'POST', body: JSON.stringify({ code, client_redirect_uri: redirectURI }) })
      .then((answer) => keep(answer.token))
      .catch((failed) => setError(failed.message));
  }, [hub, redirectURI, keep]);

  // A login that was ended elsewhere is noticed when the window is looked at again, as PEPhub's own page does.
  useEffect(() => {
    if (!token) return undefined;
    const look = () => call(hub, '/auth/session', token).catch(() => keep(null));
    window.addEventListener('focus', look);
    return () => window.removeEventListener('focus', look);
  }, [hub, token, keep]);

  const logIn = useCallback(() => {
    window.location.assign(`${hub}/auth/login?${new URLSearchParams({ client_redirect_uri: redirectURI })}`);
  }, [hub, redirectURI]);
  const logOut = useCallback(() => {
    call(hub, '/auth/logout', token, { method: 'POST' }).catch(() => {}).finally(() => keep(null));
  }, [hub, token, keep]);
  return { token, error, logIn, logOut };
}
