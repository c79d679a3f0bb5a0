// A certified OpenID provider that is not ours, with its own login pages. Refresh tokens rotate, and a
// spent one that comes back ends the whole family.
//
//   node op.mjs <host> <port> <redirect uri> <access token life in seconds>
import { Provider } from 'oidc-provider';

const [host, port, redirectURI, life] = process.argv.slice(2);
const issuer = `http://${host}:${port}`;

const provider = new Provider(issuer, {
  clients: [{
    client_id: 'wts',
    client_secret: 'end-to-end',
    redirect_uris: [redirectURI],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
  }],
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
