import { afterAll, beforeEach, expect, test } from "vitest";
import { createBilling } from "../billing.mjs";
import { startFense } from "../fense.mjs";

const fense = await startFense(); // this file's own
const billing = createBilling(fense.url, fense.key);
beforeEach(() => fense.reset());
afterAll(() => fense.end());

test("billing is stopped", async () => {
  expect((await billing.stop(1)).suppress_billing).toBe(true);
  const [sent] = await fense.requests();
  expect(JSON.parse(sent.body)).toEqual({ suppress_billing: true });
});

test("a Fense that is down for a moment is asked again", async () => {
  await fense.fail({ status: 503, times: 2 });
  await billing.stop(1);
  expect((await fense.requests()).map((request) => request.status)).toEqual([503, 503, 200]);
});
