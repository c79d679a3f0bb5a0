// Verifies a token on standard input with two libraries that are not ours, as a resource service in
// Node would, by the published keys. Prints the claims, or exits 1 with the library's code.
//
//   node verify.mjs <issuer> <audience>
import { createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRemoteJWKSet, decodeProtectedHeader, jwtVerify } from 'jose';
import jsonwebtoken from 'jsonwebtoken';

const [issuer, audience] = process.argv.slice(2);
const token = readFileSync(0, 'utf8').trim();

try {
  const discovery = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json();
  const { payload } = await jwtVerify(token, createRemoteJWKSet(new URL(discovery.jwks_uri)), { issuer, audience, typ: 'at+jwt' });

  const { keys } = await (await fetch(discovery.jwks_uri)).json();
  const jwk = keys.find(({ kid }) => kid === decodeProtectedHeader(token).kid);
  jsonwebtoken.verify(token, createPublicKey({ key: jwk, format: 'jwk' }), { issuer, audience, algorithms: [jwk.alg] });

  console.log(JSON.stringify(payload));
} catch (error) {
  console.error(error.code ?? error.name, error.message);
  process.exit(1);
}
