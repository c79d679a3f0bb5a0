// A certified OpenID provider that is not ours, with its own login pages. Refresh tokens rotate, and a
// spent one that comes back ends the whole family.
//
//   node op.mjs <host> <port> <redirect uris, with commas between> <access token life in seconds> [<issuer>]
//
// The client wts gets refresh tokens, and the client fleeting none. The issuer is another address where a proxy stands
// before it.
import { Provider } from 'oidc-provider';

const [host, port, redirectURIs, life, issuer = `http://${host}:${port}`] = process.argv.slice(2);
const client = (id, ...grants) => ({
  client_id: id, client_secret: 'end-to-end', redirect_uris: redirectURIs.split(','), grant_types: grants, response_types: ['code'],
});

const provider = new Provider(issuer, {
  clients: [client('wts', 'authorization_code', 'refresh_token'), client('fleeting', 'authorization_code')],
  // Any name logs in, with any password: the pages are the provider's own.
  findAccount: (_, name) => ({
    accountId: name,
    claims: () => ({ sub: name, preferred_username: name, email: `${name}@example.org`, email_verified: true }),
  }),
  claims: { openid: ['sub'], profile: ['preferred_username'], email: ['email', 'email_verified'] },
  conformIdTokenClaims: false,
  rotateRefreshToken: true,
  pkce: { required: () => true },
  ttl: { AccessToken: Number(life) },
  cookies: { keys: ['end-to-end'] },
});

// What the test counts by, one word a line.
for (const event of ['grant.success', 'grant.error', 'grant.revoked']) {
  provider.on(event, (ctx) => console.log(event, ctx?.oidc?.params?.grant_type ?? ''));
}
provider.listen(Number(port), host, () => console.log('listening', issuer));
