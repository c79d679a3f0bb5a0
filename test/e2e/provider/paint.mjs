// A server that takes tokens in the way in which ProteinPaint does, for the tests: with the library that ProteinPaint
// verifies with, called without a list of algorithms, and dsCredentials of the same shape.
//
//   node paint.mjs <port> <serverconfig.json> [<processor.mjs>]
//
// POST /jwt-status trades a token in the header for a session; POST /data wants base64 of a token or a session as a
// bearer. Both want {"dslabel", "embedder", "route"}.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';
import jsonwebtoken from 'jsonwebtoken';

const [port, file, module] = process.argv.slice(2);
const { dsCredentials, features } = JSON.parse(readFileSync(file, 'utf8'));
const processor = module && (await import(pathToFileURL(module))).default;
const allowed = 'Authorization, X-Auth-Token, X-Ds-Access-Token, X-SjPPDs-Sessionid'; // ProteinPaint's fixed list

class Refusal extends Error {
  constructor(body) { super('refused'); this.body = body; }
}

// credential is the entry for a request; undefined where none is needed.
const credential = ({ dslabel, embedder, route }) => {
  const embedders = (dsCredentials[dslabel] ?? dsCredentials['*'])?.[route];
  return embedders?.[embedder] ?? embedders?.['*'];
};

const checkAddress = (cred, named, seen) => {
  const mode = cred.looseIpCheck ? 'loose' : cred.ipCheck ?? 'strict';
  if (mode === 'none' || named === seen) return;
  if (named === undefined && mode === 'loose') return;
  throw new Refusal({ error: named === undefined ? 'Server error: missing ip address in saved session' : 'Your connection has changed, please refresh your page or sign in again.' });
};

const trade = (cred, query, token, seen) => {
  if (!cred.secret) throw new Refusal({ status: 'error', error: 'no credentials set up for this embedder', code: 403 });
  if (!token) throw new Refusal({ error: `missing header['${cred.headerKey ?? 'x-ds-access-token'}']` });
  const payload = jsonwebtoken.verify(processor ? processor.handleToken(token) : token, cred.secret);
  const missing = (cred.dsnames ?? []).filter(({ id }) => payload.datasets?.length && !payload.datasets.includes(id)).map(({ id }) => id);
  if (missing.length > 0) throw new Refusal({ error: 'Missing access', linkKey: missing.join(',') });
  checkAddress(cred, payload.ip, seen);
  const { email, ip, clientAuthResult, datasets } = payload;
  const iat = Math.floor(Date.now() / 1000);
  const life = Math.floor((features?.maxSessionAge ?? 57_600_000) / 1000);
  const session = { ...query, iat, exp: iat + life, email, ip, clientAuthResult, datasets };
  return { status: 'ok', jwt: jsonwebtoken.sign(session, cred.secret, { algorithm: 'HS256', allowInvalidAsymmetricKeyTypes: true }), route: query.route, clientAuthResult };
};

const read = (cred, query, authorization) => {
  const [kind, text] = (authorization ?? '').split(' ');
  if (kind !== 'Bearer') throw new Refusal({ error: 'unestablished or expired browser session' });
  const payload = jsonwebtoken.verify(Buffer.from(text, 'base64').toString('utf8'), cred.secret);
  if (payload.dslabel !== query.dslabel && !payload.datasets?.includes(query.dslabel)) throw new Refusal({ error: 'jwt payload missing datasets[] and dslabel' });
  return { status: 'ok', email: payload.email, role: payload.clientAuthResult };
};

const answer = async (request) => {
  let text = '';
  for await (const part of request) text += part;
  const { dslabel, embedder, route } = JSON.parse(text || '{}');
  const query = { dslabel, embedder, route };
  const cred = credential(query);
  if (!cred) return { status: 'ok' }; // no entry: no token is needed
  const seen = request.socket.remoteAddress.replace(/^::ffff:/, '');
  if (request.url === '/jwt-status') return trade(cred, query, request.headers[cred.headerKey ?? 'x-ds-access-token'], seen);
  return read(cred, query, request.headers.authorization);
};

createServer(async (request, response) => {
  if (request.headers.origin) {
    response.setHeader('Access-Control-Allow-Origin', request.headers.origin);
    response.setHeader('Access-Control-Allow-Credentials', 'true');
    response.setHeader('Access-Control-Allow-Headers', `Content-Type, ${allowed}`);
  }
  response.setHeader('Content-Type', 'application/json');
  if (request.method === 'OPTIONS') return response.end();
  try {
    response.end(JSON.stringify(await answer(request)));
  } catch (error) {
    response.statusCode = 401;
    response.end(JSON.stringify(error.body ?? { error: { name: error.name, message: error.message } }));
  }
}).listen(Number(port), '127.0.0.1', () => console.log('listening'));
