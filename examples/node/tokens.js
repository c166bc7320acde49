// SPDX-License-Identifier: MPL-2.0

import { readFile } from 'node:fs/promises';
import vault from 'node-vault';

const retryAfter = 5_000;

/**
 * Tokens keeps the current access token of a config or role. It logs in with an AppRole, and again whenever Vault no longer
 * accepts its own token.
 */
export class Tokens {
  #vault = vault({ requestOptions: { timeout: 20_000 } }); // the address is in VAULT_ADDR
  #options;
  #current;
  #reading;

  constructor(options) {
    this.#options = { mount: 'marketplace', path: 'kleinanzeigen', roleId: '../role-id', secretId: '../secret-id', ...options };
    this.#vault.token = undefined; // an operator's token in the environment must not be logged out
  }

  /** Returns a token that has not expired. If Vault is unreachable or sealed, that is the one from before. */
  async current() {
    if (this.#current && Date.now() < this.#current.readAgain) return this.#current;
    this.#reading ??= this.#read().finally(() => { this.#reading = undefined; }); // one read serves all callers
    return this.#reading;
  }

  /** Reports a token that the API has refused. Many callers can report one token; Vault then mints once. */
  async refused(token) {
    if (this.#current !== token) return; // another caller has reported it
    const { mount, path } = this.#options;
    await this.#call(() => this.#vault.write(`${mount}/rotate/${path}`, { access_token: token.accessToken }));
    if (this.#current === token) this.#current = undefined;
  }

  /** Revokes Vault's own token, and with it all leases. */
  async logOut() {
    if (this.#vault.token) await this.#vault.tokenRevokeSelf();
  }

  async #read() {
    const { mount, path } = this.#options;
    const read = Date.now();
    try {
      const { data, lease_duration: seconds } = await this.#call(() => this.#vault.read(`${mount}/creds/${path}`));
      this.#current = {
        accessToken: data.access_token,
        headers: data.api_headers, // ready to be sent to the API
        fingerprint: data.token_fingerprint,
        readAgain: read + seconds * 850, // the engine replaces a token in time: there is a newer one at 85% of the lease
        expiresAt: Date.parse(data.expires_at),
      };
    } catch (error) {
      if (!this.#current || Date.now() >= this.#current.expiresAt) throw error;
      console.error('the current token still works, but there is no newer one:', error.message);
      this.#current.readAgain = Date.now() + retryAfter;
    }
    return this.#current;
  }

  async #call(request) {
    if (!this.#vault.token) await this.#logIn();
    try {
      return await request();
    } catch (error) {
      if (error.response?.statusCode !== 403) throw error;
      await this.#logIn();
      return request();
    }
  }

  async #logIn() {
    const [role_id, secret_id] = await Promise.all(
      [this.#options.roleId, this.#options.secretId].map(async (file) => (await readFile(file, 'utf8')).trim()),
    );
    this.#vault.token = undefined;
    await this.#vault.approleLogin({ role_id, secret_id }); // keeps the token
  }
}

/** Returns a fetch that adds the headers which the API wants. If the API refuses the token, it reports it and tries once more. */
export function fetchWith(tokens) {
  const send = (url, init, token) => fetch(url, { ...init, headers: { ...init.headers, ...token.headers } });
  return async (url, init = {}) => {
    const token = await tokens.current();
    const answer = await send(url, init, token);
    if (answer.status !== 401) return answer;
    await answer.body?.cancel();
    await tokens.refused(token);
    return send(url, init, await tokens.current());
  };
}
