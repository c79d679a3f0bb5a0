// ProteinPaint asks this function for a token of the person who is signed in: pass it to runproteinpaint() as
// getDatasetAccessToken. It asks wts each time anew, since a token lives for minutes.
// Where the person is not signed in, or may not have a token, it throws an Error with status, code, and where a login
// helps connectUrl: open that in a window of its own, and call again once it is closed.
globalThis.getDatasetAccessToken = async function getDatasetAccessToken() {
  const answer = await fetch(__TOKEN_URL__, { method: 'POST', credentials: 'include', cache: 'no-store' });
  const said = await answer.json().catch(() => ({}));
  if (answer.ok && said.token) return said.token;
  const error = new Error(said.detail ?? `wts answered ${answer.status}`);
  throw Object.assign(error, { status: answer.status, code: said.code, connectUrl: said.connect_url });
};
