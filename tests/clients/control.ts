// The control plane, called by a client that is made of standin/openapi.json.
import createClient from "openapi-fetch";
import type { paths } from "./control-api.js";

declare const process: { env: Record<string, string> };
const standin = createClient<paths>({
  baseUrl: process.env.FENSE_STANDIN_URL,
  headers: { "x-api-key": process.env.FENSE_API_KEY },
});

await standin.PUT("/state", {
  body: {
    accounts: [{ api_key: "sk_test_ts_000002", name: "Beta", email: "b@beta.example", usage: { "-1": 5 } }],
  },
});
await standin.POST("/usage", { body: [{ fense_account_id: 1, date: -1, lookups: 2 }] });
const state = await standin.GET("/state");
const lookups: number[] = Object.values(state.data?.accounts[0]?.usage ?? {});

const fault = await standin.POST("/faults", { body: { status: 503, path: "/accounts/*" } });
const clock = await standin.PUT("/clock", { body: { now: "2026-11-30T23:59:59Z" } });
const instance = await standin.POST("/instances", { body: { seed: "demo" } });
const requests = await standin.GET("/requests");
const refused = await standin.POST("/faults", { body: {} });
await standin.POST("/reset");

console.log(lookups, fault.data?.times, clock.data?.now, instance.data?.id.length);
console.log(requests.data?.requests.length, refused.error?.error.message);
