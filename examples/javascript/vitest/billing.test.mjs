import { afterAll, beforeEach, expect, test } from "vitest";
import { createBilling } from "../billing.mjs";
import { startFense } from "../fense.mjs";

const fense = await startFense(import.meta.url); // this file's own
const billing = createBilling(fense.url, fense.key);
const account = { api_key: "sk_test_gamma_0003", name: "Gamma", email: "owner@gamma.example" };
beforeEach(() => fense.reset());
afterAll(() => fense.end());

test("billing is stopped", async () => {
  expect((await billing.stop(1)).suppress_billing).toBe(true);
  const [sent] = await fense.requests();
  expect(JSON.parse(sent.body)).toEqual({ suppress_billing: true });
});

test("retries while Fense is down", async () => {
  await fense.fail({ status: 503, times: 2 });
  await billing.stop(1);
  expect((await fense.requests()).map((request) => request.status)).toEqual([503, 503, 200]);
});

test("an account is not created again when the response is lost", async () => {
  await fense.fail({ path: "/accounts", drop: "reset", after: true });
  await expect(billing.create(account)).rejects.toThrow();
  expect((await fense.requests()).map((request) => request.handled)).toEqual([201]);
});

test("billing is stopped in the background", async () => {
  setTimeout(() => billing.stop(1), 50);
  expect(await fense.requests("method=POST&path=/accounts/1&wait_ms=2000")).toHaveLength(1);
});
