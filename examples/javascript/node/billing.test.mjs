import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { createBilling } from "../billing.mjs";
import { startFense } from "../fense.mjs";

const fense = await startFense(); // this file's own
const billing = createBilling(fense.url, fense.key);
beforeEach(() => fense.reset());
after(() => fense.end());

test("billing is stopped", async () => {
  assert.equal((await billing.stop(1)).suppress_billing, true);
  const [sent] = await fense.requests();
  assert.deepEqual(JSON.parse(sent.body), { suppress_billing: true });
});

test("a Fense that is down for a moment is asked again", async () => {
  await fense.fail({ status: 503, times: 2 });
  await billing.stop(1);
  assert.deepEqual((await fense.requests()).map((request) => request.status), [503, 503, 200]);
});
