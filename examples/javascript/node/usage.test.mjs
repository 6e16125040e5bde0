import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { createBilling } from "../billing.mjs";
import { startFense } from "../fense.mjs";

const fense = await startFense(import.meta.url);
const billing = createBilling(fense.url, fense.key);
beforeEach(() => fense.reset());
after(() => fense.end());

test("the lookups of an account are added up", async () => {
  assert.equal(await billing.lookups(1), 19);
});

test("an account that is not there is an error", async () => {
  await assert.rejects(billing.lookups(99), /404/);
});
