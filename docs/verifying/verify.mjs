// Verifies a token of wts with jose: node verify.mjs <issuer> <audience> < token
import { readFileSync } from 'node:fs';
import { inflateSync } from 'node:zlib';
import { createRemoteJWKSet, errors, jwtVerify } from 'jose';

// Keep one for as long as the service runs: it keeps the keys and the status lists.
export async function verifier(issuer, audience) {
  const discovery = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json();
  const keys = createRemoteJWKSet(new URL(discovery.jwks_uri));
  const algorithms = ['ES256', 'RS256', 'EdDSA'];
  const lists = new Map();

  // API tokens have a status list (draft-ietf-oauth-status-list); minted tokens have none.
  async function revoked({ idx, uri }) {
    if (!uri.startsWith(`${issuer}/`)) throw new errors.JWTInvalid('the status list is not the issuer\'s');
    let list = lists.get(uri);
    if (!list || Date.now() >= list.freshUntil) {
      const token = await (await fetch(uri)).text();
      const { payload } = await jwtVerify(token, keys, { algorithms, typ: 'statuslist+jwt', subject: uri });
      const { bits, lst } = payload.status_list;
      list = { bits, statuses: inflateSync(Buffer.from(lst, 'base64url')), freshUntil: Date.now() + (payload.ttl ?? 60) * 1000 };
      lists.set(uri, list);
    }
    const bit = idx * list.bits;
    if (!(bit >= 0 && bit >> 3 < list.statuses.length)) throw new errors.JWTInvalid('its number is in no list');
    return ((list.statuses[bit >> 3] >> (bit & 7)) & ((1 << list.bits) - 1)) !== 0;
  }

  return async (token) => {
    const { payload } = await jwtVerify(token, keys, { issuer, audience, algorithms, typ: 'at+jwt', requiredClaims: ['exp', 'iat', 'sub', 'jti'] });
    if (payload.status && await revoked(payload.status.status_list)) throw new errors.JWTInvalid('revoked');
    return payload;
  };
}

if (import.meta.filename === process.argv[1]) {
  try {
    const verify = await verifier(process.argv[2], process.argv[3]);
    console.log(JSON.stringify(await verify(readFileSync(0, 'utf8').trim())));
  } catch (error) {
    console.error(error.code ?? error.name, error.message);
    process.exit(1);
  }
}
