// A test without a framework:  fense-admin exec --seed examples/seed.json -- node examples/billing.mjs
import assert from "node:assert/strict";

const { FENSE_BASE_URL, FENSE_API_KEY, FENSE_STANDIN_URL } = process.env;
const headers = { "x-api-key": FENSE_API_KEY, "Content-Type": "application/json" };

async function call(url, method = "GET", body = undefined) {
  const response = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  const text = await response.text();
  return { status: response.status, body: text ? JSON.parse(text) : null };
}

// Reset the data, simulate a failure, and check what was sent.
await call(`${FENSE_STANDIN_URL}/reset`, "POST");
await call(`${FENSE_STANDIN_URL}/faults`, "POST", { status: 503, path: "/accounts/1" });

const update = { suppress_billing: true };
assert.equal((await call(`${FENSE_BASE_URL}/accounts/1`, "POST", update)).status, 503);
const { body: account } = await call(`${FENSE_BASE_URL}/accounts/1`, "POST", update);
assert.equal(account.suppress_billing, true);

const { body: usage } = await call(`${FENSE_BASE_URL}/accounts/usage/1`);
assert.equal(usage.total_lookups, 19);

const { body: journal } = await call(`${FENSE_STANDIN_URL}/requests`);
assert.deepEqual(journal.requests.map((request) => request.status), [503, 200, 200]);
console.log(`${account.name}: billing stopped after ${usage.total_lookups} lookups`);
