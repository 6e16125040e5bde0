import { afterAll, beforeEach, expect, test } from "vitest";
import { createBilling } from "../billing.mjs";
import { startFense } from "../fense.mjs";

const fense = await startFense(import.meta.url);
const billing = createBilling(fense.url, fense.key);
beforeEach(() => fense.reset());
afterAll(() => fense.end());

test("the lookups of an account are added up", async () => {
  expect(await billing.lookups(1)).toBe(19);
});

test("an account that is not there is an error", async () => {
  await expect(billing.lookups(99)).rejects.toThrow("404");
});
