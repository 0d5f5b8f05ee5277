// A real identity provider: prints its address, and changes its keys when asked to.
import { createServer } from 'node:http';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import Provider from 'oidc-provider';

const freshKey = () => ({
  ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }),
  kid: randomUUID(),
  use: 'sig',
  alg: 'RS256',
});

const client = (client_id) => ({
  client_id,
  client_secret: `${client_id}-secret`,
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
});

const resources = {
  'urn:doorbell:jwt': { scope: 'notify read', audience: 'doorbell', accessTokenFormat: 'jwt' },
  'urn:doorbell:opaque': { scope: 'notify read', audience: 'doorbell', accessTokenFormat: 'opaque' },
  'urn:other:jwt': { scope: 'notify read', audience: 'other', accessTokenFormat: 'jwt' },
};

let keys = [freshKey()];
let callback;

const server = createServer((request, response) => {
  if (request.method === 'POST' && request.url === '/change-keys') {
    // The new key signs; the old one is published until everybody has the new one.
    keys = [freshKey(), keys[0]];
    open();
    response.end();
    return;
  }
  callback(request, response);
});

const tokens = new Map();
// What is issued outlives a change of keys.
class Adapter {
  constructor(kind) { this.kind = kind; }
  key(id) { return `${this.kind}:${id}`; }
  async upsert(id, payload) { tokens.set(this.key(id), payload); }
  async find(id) { return tokens.get(this.key(id)); }
  async destroy(id) { tokens.delete(this.key(id)); }
}

function open() {
  const provider = new Provider(`http://127.0.0.1:${server.address().port}`, {
    adapter: Adapter,
    clients: ['market', 'stranger', 'doorbell'].map(client),
    jwks: { keys },
    scopes: ['notify', 'read'],
    features: {
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => ({ accessTokenTTL: 600, ...resources[resource] }),
      },
    },
  });
  callback = provider.callback();
}

server.listen(0, '127.0.0.1', () => {
  open();
  console.log(`http://127.0.0.1:${server.address().port}`);
});
