// The flows of RFC 6749, 7636, 8628, 8693, 7662 and 7009 by a client that is not ours, openid-client.
//
//   node flows.mjs <issuer> <redirect uri> <audience> <the audience's secret>
//
// It prints `open <address>` for the browser, and reads where that ended up; then `<step>: <what came of it>`.
import * as client from 'openid-client';
import { createInterface } from 'node:readline/promises';

const [issuer, redirectURI, audience, secret] = process.argv.slice(2);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const open = async (address) => {
  console.log('open', String(address));
  return (await lines.next()).value;
};
const insecure = { algorithm: 'oauth2', execute: [client.allowInsecureRequests] }; // on this machine alone
const exchangeGrant = 'urn:ietf:params:oauth:grant-type:token-exchange';
const accessToken = 'urn:ietf:params:oauth:token-type:access_token';

const program = await client.discovery(new URL(issuer), 'lasting', { token_endpoint_auth_method: 'none' }, client.None(), insecure);
const stranger = await client.discovery(new URL(issuer), 'stranger', { token_endpoint_auth_method: 'none' }, client.None(), insecure);
const service = await client.discovery(new URL(issuer), audience, secret, client.ClientSecretBasic(secret), insecure);
const impostor = await client.discovery(new URL(issuer), audience, 'wrong', client.ClientSecretBasic('wrong'), insecure);

// said is how a step ended: what it gives, or the error of the RFC.
const said = async (step, work) => {
  let result;
  try {
    result = await work();
  } catch (error) {
    // Of a challenge (HTTP Basic) it reads the header alone.
    result = error.error ?? (error.response && !error.response.bodyUsed ? (await error.response.json()).error : error);
  }
  console.log(`${step}: ${result}`);
};

// codeFor has the person allow it in their browser.
const codeFor = async (more = {}) => {
  const verifier = client.randomPKCECodeVerifier();
  const state = client.randomState();
  const address = client.buildAuthorizationUrl(program, {
    redirect_uri: redirectURI, scope: 'read', audience, state,
    code_challenge: await client.calculatePKCECodeChallenge(verifier), code_challenge_method: 'S256', ...more,
  });
  return { back: new URL(await open(address)), verifier, state };
};
const redeem = ({ back, verifier, state }) => client.authorizationCodeGrant(program, back, { pkceCodeVerifier: verifier, expectedState: state });

const first = await codeFor();
const tokens = await redeem(first);
await said('code', () => `${tokens.token_type.toLowerCase()} ${tokens.scope} ${tokens.expires_in > 0} ${Boolean(tokens.refresh_token)}`);
await said('introspection', async () => {
  const found = await client.tokenIntrospection(service, tokens.access_token);
  return `${found.active} ${found.username} ${found.client_id} ${found.scope}`;
});
await said('introspection of what is no token', async () => (await client.tokenIntrospection(service, 'nonsense')).active);
await said('introspection by an impostor', () => client.tokenIntrospection(impostor, tokens.access_token));
await said('a code again', () => redeem(first));
await said('what the code began', () => client.refreshTokenGrant(program, tokens.refresh_token));
await said('another verifier', async () => redeem({ ...(await codeFor()), verifier: client.randomPKCECodeVerifier() }));
await said('a scope that is none', async () => redeem(await codeFor({ scope: 'everything' })));
await said('another audience', async () => redeem(await codeFor({ audience: 'other' })));

const second = await redeem(await codeFor());
const third = await client.refreshTokenGrant(program, second.refresh_token);
await said('refresh', () => `${third.scope} ${third.refresh_token !== second.refresh_token}`);
await said('refresh with more scopes', () => client.refreshTokenGrant(program, third.refresh_token, { scope: 'read write' }));
await said('a refresh token again', () => client.refreshTokenGrant(program, second.refresh_token));
await said('after that', () => client.refreshTokenGrant(program, third.refresh_token));

const begin = () => client.initiateDeviceAuthorization(program, { scope: 'read', audience });
const poll = (device) => client.pollDeviceAuthorizationGrant(program, { ...device, interval: 1 });
let device = await begin();
await open(device.verification_uri_complete);
const fourth = await poll(device);
await said('device', () => `${fourth.token_type.toLowerCase()} ${fourth.scope}`);
device = await begin();
await open(device.verification_uri_complete + '&deny');
await said('a device that is denied', () => poll(device));
await said('a device that is unknown', () => client.initiateDeviceAuthorization(stranger, { scope: 'read' }));
await said('revocation', async () => (await client.tokenRevocation(program, fourth.refresh_token), 'done'));
await said('after the revocation', () => client.refreshTokenGrant(program, fourth.refresh_token));

// The command line's token for wts itself is exchanged for one of an audience.
const shell = await client.discovery(new URL(issuer), 'wts-cli', { token_endpoint_auth_method: 'none' }, client.None(), insecure);
device = await client.initiateDeviceAuthorization(shell, { scope: 'token' });
await open(device.verification_uri_complete);
const own = await client.pollDeviceAuthorizationGrant(shell, { ...device, interval: 1 });
const exchange = (subject, target) => client.genericGrantRequest(shell, exchangeGrant, { subject_token: subject, subject_token_type: accessToken, audience: target, scope: 'read' });
await said('exchange', async () => {
  const got = await exchange(own.access_token, audience);
  return `${got.token_type.toLowerCase()} ${got.scope}`;
});
await said('exchange for another audience', () => exchange(own.access_token, 'nothing'));
await said('exchange of what is no token', () => exchange('nonsense', audience));
process.exit(0);
