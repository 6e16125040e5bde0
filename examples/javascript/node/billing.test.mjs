import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { createBilling } from "../billing.mjs";
import { startFense } from "../fense.mjs";

const fense = await startFense(import.meta.url); // this file's own
const billing = createBilling(fense.url, fense.key);
const account = { api_key: "sk_test_gamma_0003", name: "Gamma", email: "owner@gamma.example" };
beforeEach(() => fense.reset());
after(() => fense.end());

test("billing is stopped", async () => {
  assert.equal((await billing.stop(1)).suppress_billing, true);
  const [sent] = await fense.requests();
  assert.deepEqual(JSON.parse(sent.body), { suppress_billing: true });
});

test("retries while Fense is down", async () => {
  await fense.fail({ status: 503, times: 2 });
  await billing.stop(1);
  assert.deepEqual((await fense.requests()).map((request) => request.status), [503, 503, 200]);
});

test("an account is not created again when the response is lost", async () => {
  await fense.fail({ path: "/accounts", drop: "reset", after: true });
  await assert.rejects(billing.create(account));
  assert.deepEqual((await fense.requests()).map((request) => request.handled), [201]);
});

test("billing is stopped in the background", async () => {
  setTimeout(() => billing.stop(1), 50);
  const found = await fense.requests("method=POST&path=/accounts/1&wait_ms=2000");
  assert.equal(found.length, 1);
});
