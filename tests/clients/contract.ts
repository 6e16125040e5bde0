// The contract, called by a client that openapi-typescript and openapi-fetch make of openapi.json.
import createClient from "openapi-fetch";
import type { components, paths } from "./contract-api.js";

declare const process: { env: Record<string, string> };
const client = createClient<paths>({
  baseUrl: process.env.FENSE_BASE_URL,
  headers: { "x-api-key": process.env.FENSE_API_KEY },
});

function sure<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("no answer");
  return value;
}

const made = await client.POST("/accounts", {
  body: { api_key: "sk_test_ts_000001", name: "Acme Ltd", email: "owner@acme.example" },
});
const account: components["schemas"]["Account"] = sure(made.data);
const path = { fense_account_id: account.fense_account_id };

const read = await client.GET("/accounts/{fense_account_id}", { params: { path } });
const link: string | null = sure(read.data).dispute_account_id;

const updated = await client.POST("/accounts/{fense_account_id}", {
  params: { path },
  body: { suppress_billing: true },
});

const query = { start_date: "2026-11-01", end_date: "2026-11-30" };
const usage = await client.GET("/accounts/usage/{fense_account_id}", { params: { path, query } });
const total: number = sure(usage.data).daily.reduce((sum, day) => sum + day.lookups, 0);

const refused = await client.POST("/accounts/{fense_account_id}", {
  params: { path },
  body: { name: "" },
});
const error: components["schemas"]["ErrorResponse"] = sure(refused.error);
const health = await client.GET("/healthz");

console.log(account.name, link, sure(updated.data).suppress_billing, total);
console.log(refused.response.status, error.error.details[0].field, sure(health.data).status);
