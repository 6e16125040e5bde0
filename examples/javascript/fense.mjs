// A stand-in for each test file, for any test runner: copy this file, and run  fense-admin exec -- npm test
// Here: fense-admin exec --seed examples/seed.json -- npm test --prefix examples/javascript
const { FENSE_STANDIN_URL, FENSE_API_KEY } = process.env; // set by `fense-admin exec`

export async function startFense(file) {
  const name = file.split("/").pop(); // for the log, the page, and the report of a failure
  const made = await call(`${FENSE_STANDIN_URL}/instances`, FENSE_API_KEY, "POST", { name });
  const own = (path, method, body) => call(`${made.standin_url}${path}`, made.api_key, method, body);
  return {
    url: made.base_url,
    key: made.api_key,
    reset: () => own("/reset", "POST"), // to the seed
    fail: (fault) => own("/faults", "POST", fault),
    // What was sent; with wait_ms in the query, as soon as it has been sent.
    requests: async (query = "") => (await own(`/requests?${query}`, "GET")).requests,
    end: () => call(`${FENSE_STANDIN_URL}/instances/${made.id}`, FENSE_API_KEY, "DELETE"),
  };
}

async function call(url, key, method, body) {
  const headers = { "x-api-key": key, "Content-Type": "application/json" };
  const response = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${url}: ${response.status} ${text}`);
  return text && JSON.parse(text);
}
