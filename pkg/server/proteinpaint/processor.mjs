// A processor for ProteinPaint's dsCredentials: it verifies the tokens of one integration of wts by all of its keys that
// count, and signs them again with the secret that ProteinPaint's own configuration has. So the key of wts is replaced
// without a token that is refused, and without a restart of ProteinPaint.
//
// The secret of ProteinPaint's configuration, "secret" beside "processor", stands in the file WTS_LOCAL_SECRET_FILE
// (default: wts-local-secret beside this module). It never leaves this machine.
// Where wts signs with a secret (HS256), the secrets stand in the file WTS_SECRETS_FILE (default: wts-secrets beside this
// module), one a line, the present and the next one: put the next one in before it is activated, and take the old one out
// after its last token has expired. The file is read again every two seconds.
// Where wts signs with a key (RS256, ES256), the public keys are fetched in the background.
import { createHmac, createPublicKey, timingSafeEqual, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';

const algorithm = __ALGORITHM__;
const keysURL = __KEYS_URL__;
const again = 30_000; // milliseconds, between two fetches
const settled = 2_000; // milliseconds, for which a file that was read counts
const beside = (variable, name) => process.env[variable] ?? new URL(name, import.meta.url);

// kept reads the lines of a file, at most once in two seconds. One that cannot be read leaves what was read before.
const kept = (file) => {
  let lines = [];
  let until = 0;
  return () => {
    if (Date.now() < until) return lines;
    try {
      const read = readFileSync(file, 'utf8').split('\n').map((line) => line.trim()).filter((line) => line && !line.startsWith('#'));
      if (read.length > 0) lines = read;
    } catch (error) {
      if (lines.length === 0) throw new Error(`wts: ${error.code ?? 'an error'} reading the file of secrets`);
    }
    until = Date.now() + settled;
    return lines;
  };
};
const localSecret = kept(beside('WTS_LOCAL_SECRET_FILE', 'wts-local-secret'));
const sharedSecrets = kept(beside('WTS_SECRETS_FILE', 'wts-secrets'));

// publicKeys are those of the day on which this file was made, and then what wts publishes. A key set that cannot be had
// leaves the one before it.
const parse = (text) => (text.match(/-----BEGIN PUBLIC KEY-----[^-]+-----END PUBLIC KEY-----/g) ?? []).map((pem) => createPublicKey(pem));
let publicKeys = parse(__PUBLIC_KEYS__);
const fetchKeys = async () => {
  try {
    const answer = await fetch(keysURL, { redirect: 'error', signal: AbortSignal.timeout(10_000) });
    const found = answer.ok ? parse(await answer.text()) : [];
    if (found.length > 0) publicKeys = found;
  } catch { /* the keys before it count */ }
};
if (algorithm !== 'HS256') {
  fetchKeys();
  setInterval(fetchKeys, again).unref();
}

const hmac = (secret, input) => createHmac('sha256', secret).update(input).digest();
const decoded = (part) => JSON.parse(Buffer.from(part, 'base64url').toString('utf8'));
const encoded = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

// signed tells whether one of the keys that count made the signature.
const signed = (input, signature) => {
  switch (algorithm) {
    case 'HS256':
      return sharedSecrets().some((secret) => {
        const expected = hmac(secret, input);
        return expected.length === signature.length && timingSafeEqual(expected, signature);
      });
    case 'ES256':
      return publicKeys.some((key) => verify('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' }, signature));
    default:
      return publicKeys.some((key) => verify('sha256', Buffer.from(input), key, signature));
  }
};

// handleToken turns a token of wts into one that ProteinPaint verifies with its own secret. What is no valid token throws.
function handleToken(raw) {
  const parts = String(raw).split('.');
  if (parts.length !== 3) throw new Error('jwt malformed');
  let head, claims;
  try {
    [head, claims] = [decoded(parts[0]), decoded(parts[1])];
  } catch {
    throw new Error('jwt malformed');
  }
  if (head.alg !== algorithm) throw new Error('invalid algorithm');
  if (!signed(`${parts[0]}.${parts[1]}`, Buffer.from(parts[2], 'base64url'))) throw new Error('invalid signature');
  if (typeof claims.exp !== 'number' || claims.exp * 1000 <= Date.now()) throw new Error('jwt expired');
  const input = `${encoded({ alg: 'HS256', typ: 'JWT' })}.${parts[1]}`;
  return `${input}.${hmac(localSecret()[0], input).toString('base64url')}`;
}

export default { handleToken };
