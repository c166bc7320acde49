// SPDX-License-Identifier: MPL-2.0
//
// Calls a marketplace's API again and again: node main.js URL [milliseconds between two calls]

import { setTimeout as sleep } from 'node:timers/promises';
import { fetchWith, Tokens } from './tokens.js';

const [url, every = '1000'] = process.argv.slice(2);
if (!url) {
  console.error('shop: give the URL to call as the first argument');
  process.exit(1);
}

const stop = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => stop.abort());

const tokens = new Tokens();
const call = fetchWith(tokens);
while (!stop.signal.aborted) {
  try {
    const answer = await call(url, { signal: AbortSignal.timeout(30_000) });
    await answer.arrayBuffer();
    console.log('answer', answer.status, 'with token', (await tokens.current()).fingerprint);
  } catch (error) {
    console.log('no answer:', error.message);
  }
  await sleep(Number(every), undefined, { signal: stop.signal }).catch(() => {});
}
await tokens.logOut();
