// The stand-in in a container: npm install, then, in the folder of the Dockerfile,
// node --test examples/testcontainers/billing.test.mjs
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { GenericContainer, Wait } from "testcontainers";

const KEY = "key-for-tests";
const image = await GenericContainer.fromDockerfile(".").build();
const fense = await image
  .withEnvironment({ DISPUTE_MASTER_KEY: KEY, FENSE_ADMIN_STANDIN: "1", FENSE_ADMIN_SEED: "demo" })
  .withExposedPorts(8642)
  .withWaitStrategy(Wait.forHttp("/healthz", 8642))
  .start();
after(() => fense.stop());
const url = `http://${fense.getHost()}:${fense.getMappedPort(8642)}`;

function post(path, body) {
  const headers = { "x-api-key": KEY, "Content-Type": "application/json" };
  return fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) });
}

test("billing is stopped at the second attempt", async () => {
  await post("/_standin/faults", { status: 503, path: "/accounts/1" });
  assert.equal((await post("/accounts/1", { suppress_billing: true })).status, 503);
  const stopped = await post("/accounts/1", { suppress_billing: true });
  assert.equal((await stopped.json()).suppress_billing, true);
});
